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


def rows_of(lines: Iterator[Line], file: Path, whole: bool) -> Iterator[Line]:
    """Yield the lines of steps, each once, for mirrors that can only append.

    A step that is trained again after a restart comes to the same numbers: its first line counts. `whole` begins with
    what earlier attempts have written to metrics.jsonl, `file`; without it that is left out.
    """
    highest: dict[tuple[str, str], int] = {}
    begun = False
    for line in lines:
        if line["kind"] not in OF_STEPS:
            continue
        for earlier in () if begun else _of_earlier_attempts(file, line["attempt"]):
            if _is_new(earlier, highest) and whole:
                yield earlier
        begun = True
        if _is_new(line, highest):
            yield line


def _is_new(line: Line, highest: dict[tuple[str, str], int]) -> bool:
    """Return whether no line of the kind was of this step or a later one, and remember it."""
    what = line["kind"], line.get("split", "")
    if line["step"] <= highest.get(what, 0):
        return False
    highest[what] = line["step"]
    return True


def _of_earlier_attempts(file: Path, attempt: int) -> Iterator[Line]:
    if attempt > 1 and file.exists():
        for line in read_lines(file):
            if line.get("kind") in OF_STEPS and line["attempt"] < attempt:
                yield line
