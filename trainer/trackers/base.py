"""Where results go. Only rank 0 has trackers; none of them may stop or slow the training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from megabatch.trainer.evaluate import EvaluationResult
from megabatch.trainer.state import TrainState
from megabatch.trainer.step import StepReport


class Tracker(Protocol):
    """Gets every step and every evaluation, in order."""

    def step(self, report: StepReport, state: TrainState) -> None:
        """Take note of a finished step; `state` is what it led to."""
        ...

    def evaluation(self, result: EvaluationResult, state: TrainState) -> None:
        """Take note of an evaluation."""
        ...

    def trust_ratios(self, ratios: dict[str, float], state: TrainState) -> None:
        """Take note of the trust ratios of the last step by parameter name."""
        ...

    def checkpoint(self, values: dict[str, Any]) -> None:
        """Take note of a save that has ended: its step and attempt, and the seconds it took."""
        ...

    def message(self, text: str) -> None:
        """Take note of something a person should know."""
        ...

    def close(self) -> None:
        """Write what is still pending."""
        ...


@dataclass(frozen=True)
class Trackers:
    """Several trackers as one."""

    members: tuple[Tracker, ...]

    def step(self, report: StepReport, state: TrainState) -> None:
        """Tell all."""
        for member in self.members:
            member.step(report, state)

    def evaluation(self, result: EvaluationResult, state: TrainState) -> None:
        """Tell all."""
        for member in self.members:
            member.evaluation(result, state)

    def trust_ratios(self, ratios: dict[str, float], state: TrainState) -> None:
        """Tell all."""
        for member in self.members:
            member.trust_ratios(ratios, state)

    def checkpoint(self, values: dict[str, Any]) -> None:
        """Tell all."""
        for member in self.members:
            member.checkpoint(values)

    def message(self, text: str) -> None:
        """Tell all."""
        for member in self.members:
            member.message(text)

    def close(self) -> None:
        """Close all."""
        for member in self.members:
            member.close()


def step_values(report: StepReport, state: TrainState) -> dict[str, Any]:
    """Return the numbers of a step under the names that all trackers use."""
    values = {
        "step": state.step,
        "epoch": report.epoch,
        "samples_seen": state.samples_seen,
        "loss": finite(report.loss),  # that of a bad step may not be; JSON has no nan
        "learning_rate": report.learning_rate,
        "samples_per_second": report.samples / report.seconds,
        "seconds": report.seconds,
        "data_wait_seconds": report.data_wait_seconds,
        "data_wait_share": report.data_wait_share,
        "skipped_samples": report.skipped_samples,
    }
    seldom = {
        "gradient_norm": finite(report.gradient_norm), "noise_scale": report.noise_scale,
        "passed_over": report.passed_over, "update_ratio": report.update_ratio,
        "distillation_loss": finite(report.distillation_loss),
    }  # fmt: skip
    return values | {name: value for name, value in seldom.items() if value is not None}


def finite(value: float | None) -> float | None:
    """Return what JSON has a word for: None for nan and the infinite."""
    return value if value is not None and math.isfinite(value) else None


def evaluation_values(result: EvaluationResult, state: TrainState) -> dict[str, Any]:
    """Return the numbers of an evaluation under the names that all trackers use."""
    return {
        "step": state.step,
        "samples_seen": state.samples_seen,
        **result.to_json(),
    }
