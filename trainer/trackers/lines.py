"""What a tracker is told, as the lines of metrics.jsonl: the one form in which numbers leave the training.

A line is a dict with its "kind": step, evaluation and trust_ratios have "step", "samples_seen" and "attempt" (how often
the run was started) beside their numbers; checkpoint and message have what a save took, and a "text". docs/tracking.md
lists the keys.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megabatch.configs.metrics import OF_STEPS, read_lines
from megabatch.trainer.evaluate import EvaluationResult
from megabatch.trainer.state import TrainState
from megabatch.trainer.step import StepReport
from megabatch.trainer.trackers.base import evaluation_values, step_values

Line = dict[str, Any]  # Any: numbers, texts and what else JSON has
_AXES = ("step", "epoch", "samples_seen")
_NO_NUMBERS = ("kind", "attempt", "time", "split")


class LineTracker(ABC):
    """Makes a line of everything it is told, and hands it to `take`."""

    @abstractmethod
    def take(self, line: Line) -> None:
        """Keep a line."""

    @abstractmethod
    def close(self) -> None:
        """Write what is still pending."""

    def step(self, report: StepReport, state: TrainState) -> None:
        """Make a line of kind "step"."""
        self._of_state("step", state, step_values(report, state))

    def evaluation(self, result: EvaluationResult, state: TrainState) -> None:
        """Make a line of kind "evaluation"."""
        self._of_state("evaluation", state, evaluation_values(result, state))

    def trust_ratios(self, ratios: dict[str, float], state: TrainState) -> None:
        """Make a line of kind "trust_ratios"."""
        values = {"step": state.step, "samples_seen": state.samples_seen, "ratios": ratios}
        self._of_state("trust_ratios", state, values)

    def checkpoint(self, values: dict[str, Any]) -> None:
        """Make a line of kind "checkpoint"."""
        self.take({"kind": "checkpoint", "time": round(time.time(), 3), **values})

    def message(self, text: str) -> None:
        """Make a line of kind "message"."""
        self.take({"kind": "message", "time": time.time(), "text": text})

    def _of_state(self, kind: str, state: TrainState, values: Line) -> None:
        self.take({"kind": kind, "attempt": state.attempt, "time": round(time.time(), 3), **values})


def metrics_of(line: Line) -> Line:
    """Return the numbers of a line by their names elsewhere: train/loss, validation/top1, trust_ratio/PARAMETER.

    >>> metrics_of({"kind": "step", "attempt": 1, "time": 3.0, "step": 2, "samples_seen": 40, "loss": 0.5})
    {'step': 2, 'samples_seen': 40, 'train/loss': 0.5}
    >>> metrics_of({"kind": "message", "time": 3.0, "text": "hello"})
    {}
    """
    match line["kind"]:
        case "step":
            group = "train"
        case "evaluation":
            group = line["split"]
        case "trust_ratios":
            ratios = {f"trust_ratio/{name}": ratio for name, ratio in line["ratios"].items()}
            return {name: line[name] for name in _AXES if name in line} | ratios
        case _:
            return {}
    return {
        name if name in _AXES else f"{group}/{name}": value for name, value in line.items() if name not in _NO_NUMBERS
    }


def is_number(value: object) -> bool:
    """Return whether a value can be a point of a curve: a loss that is not finite is None, a reason is a text."""
    return isinstance(value, int | float)


def news(lines: Iterator[Line], file: Path) -> Iterator[Line]:
    """Leave out the steps that metrics.jsonl, `file`, has from an earlier attempt, and those trained again in this one.

    For mirrors that can only append: a step that is trained again after a restart comes to the same numbers.
    """
    known: dict[tuple[str, str], int] | None = None
    for line in lines:
        if line["kind"] not in OF_STEPS:
            continue
        if known is None:
            known = _highest_steps(file, before=line["attempt"])
        what = line["kind"], line.get("split", "")
        if line["step"] > known.get(what, 0):
            known[what] = line["step"]
            yield line


def _highest_steps(file: Path, before: int) -> dict[tuple[str, str], int]:
    """Return the highest step of each kind of line that attempts before this one have written."""
    known: dict[tuple[str, str], int] = {}
    if before > 1 and file.exists():
        for line in read_lines(file):
            if line.get("kind") in OF_STEPS and line["attempt"] < before:
                what = line["kind"], line.get("split", "")
                known[what] = max(known.get(what, 0), line["step"])
    return known
