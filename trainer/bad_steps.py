"""Tells of bad steps: a message, a line in RUN_DIR/bad-steps.jsonl with the samples, and the end after too many."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from megabatch.configs.job import Job
from megabatch.configs.metrics import end_last_line
from megabatch.configs.stability import Stability
from megabatch.data.arrangement import Arrangement
from megabatch.data.draws import Order
from megabatch.data.errors import DataError
from megabatch.data.steps import Steps, StepSpan
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.state import TrainState
from megabatch.trainer.step import StepReport
from megabatch.trainer.trackers.base import Trackers, finite

Samples = dict[str, list[str]]  # shard -> keys

_SHOWN = 3


@dataclass(frozen=True)
class BadSteps:
    """What is told of them. Only rank 0 writes; all ranks end alike."""

    settings: Stability
    steps: Steps
    samples_of: Callable[[StepSpan], Samples]
    file: Path
    is_main: bool

    def tell(self, report: StepReport, state: TrainState, trackers: Trackers) -> None:
        """Write down a bad step. Raises TrainingError if the run may not go on."""
        seen, most = state.guard.bad_steps, self.settings.max_bad_steps
        samples = self.samples_of(self.steps.at(report.step))
        if self.is_main:
            self._write(report, state, samples)
        told = self._told(report, samples)
        if self.settings.on_bad_step == "stop" or seen > most:
            limit = f"{seen} bad steps, stability.max_bad_steps allows {most}; the last: " if seen > most else ""
            raise TrainingError(
                f"{limit}{told}. The learning rate may be too high or the warmup too short (optimizer."
                "base_learning_rate, schedule.warmup), or something is wrong with these samples"
            )
        trackers.message(f"{told}. No update; bad step {seen} of at most {most}")

    def _told(self, report: StepReport, samples: Samples) -> str:
        span = self.steps.at(report.step)
        norm = "" if report.gradient_norm is None else f", gradient norm {report.gradient_norm:.4g}"
        return (
            f"step {report.step + 1}: {report.passed_over} (loss {report.loss:.4g}{norm}). Its samples are positions "
            f"{span.start} to {span.stop - 1} of epoch {span.epoch + 1}{_shown(samples)}; {self.file} has all"
        )

    def _write(self, report: StepReport, state: TrainState, samples: Samples) -> None:
        span = self.steps.at(report.step)
        line = {
            "kind": "bad_step", "attempt": state.attempt, "time": round(time.time(), 3), "step": report.step + 1,
            "reason": report.passed_over, "then": self.settings.on_bad_step, "loss": finite(report.loss),
            "gradient_norm": finite(report.gradient_norm), "epoch": span.epoch, "first_position": span.start,
            "samples": samples,
        }  # fmt: skip
        end_last_line(self.file)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def samples_finder(job: Job, arrangement: Arrangement, order: Order) -> Callable[[StepSpan], Samples]:
    """Return what says which samples a step had, as keys by shard; of a stream, which has no keys, nothing."""

    def samples_of(span: StepSpan) -> Samples:
        if job.recipe.data.train_stream is not None:
            return {}
        reader = arrangement.reader(job.recipe.data.train_split)
        found: Samples = {}
        for sample_id in order.draws(span.epoch, span.start, span.stop).sample_ids.tolist():
            try:
                sample = reader.read(sample_id)
            except DataError:  # it had weight 0, and stands in data-errors.jsonl
                continue
            found.setdefault(sample.shard, []).append(sample.key)
        return found

    return samples_of


def _shown(samples: Samples) -> str:
    places = [f"{shard}: {', '.join(keys[:_SHOWN])}{_rest(keys)}" for shard, keys in list(samples.items())[:_SHOWN]]
    return f" ({'; '.join(places)}{_rest([*samples])})" if places else ""


def _rest(items: list[str]) -> str:
    return f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
