"""metrics.jsonl as columns of numbers. A long run has millions of steps: as dicts they would not fit into memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabatch.configs.json_files import json_object

Column = NDArray[np.float64]
COLUMNS = (
    "step", "attempt", "time", "samples_seen", "loss", "learning_rate", "samples_per_second", "seconds",
    "data_wait_share", "gradient_norm", "noise_scale", "update_ratio", "distillation_loss",
)  # fmt: skip


@dataclass(frozen=True)
class Steps:
    """The steps in order, those of the last attempt where one was trained again; nan where there is no number."""

    columns: dict[str, Column]
    all_attempts: Column  # of every line, also those that were trained again later
    all_times: Column
    all_steps: Column

    def __len__(self) -> int:
        return len(self.columns["step"])

    def last(self, name: str) -> float | None:
        """Return the last number of a column."""
        known = self.columns[name][np.isfinite(self.columns[name])]
        return float(known[-1]) if len(known) else None

    def last_time(self, attempt: int, otherwise: float) -> float:
        """Return when an attempt wrote its last step."""
        own = self.all_times[self.all_attempts == attempt]
        return float(np.max(own)) if len(own) else otherwise

    def last_step(self, attempt: int, otherwise: int) -> int:
        """Return the last step that an attempt trained."""
        own = self.all_steps[self.all_attempts == attempt]
        return int(np.max(own)) if len(own) else otherwise

    def hours(self) -> Column:
        """Return the hours of training up to each step: what passed between two attempts does not count."""
        time, attempt, seconds = (self.columns[name] for name in ("time", "attempt", "seconds"))
        between = np.diff(time, prepend=time[:1])
        begins = np.diff(attempt, prepend=-1.0) != 0
        spent = np.where(begins, np.nan_to_num(seconds), np.maximum(between, 0.0))
        return np.cumsum(np.nan_to_num(spent)) / 3600


@dataclass(frozen=True)
class Metrics:
    """Everything in the file."""

    steps: Steps
    evaluations: tuple[dict[str, Any], ...]
    checkpoints: tuple[dict[str, Any], ...]


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects in a .jsonl file; without a file there are none, and half lines are left out."""
    try:
        with file.open(encoding="utf-8", errors="replace") as opened:
            yield from (line for text in opened if (line := json_object(text)))
    except OSError:
        return


def read_all(file: Path) -> Metrics:
    """Read the file once, from its beginning to its end."""
    rows: list[tuple[float, ...]] = []
    evaluations: dict[tuple[int, str], dict[str, Any]] = {}
    checkpoints = []
    for line in read_lines(file):
        kind = line.get("kind")
        if kind == "step" and "step" in line:
            rows.append(tuple(number(line.get(name)) for name in COLUMNS))
        elif kind == "evaluation" and "step" in line:
            evaluations[line["step"], str(line.get("split", ""))] = line
        elif kind == "checkpoint":
            checkpoints.append(line)
    found = tuple(evaluations[key] for key in sorted(evaluations))
    return Metrics(_steps(rows), found, tuple(checkpoints))


def number(value: object) -> float:
    """Return a value as a number; nan if it is none."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def _steps(rows: list[tuple[float, ...]]) -> Steps:
    whole = np.array(rows, dtype=np.float64).reshape(-1, len(COLUMNS))
    every = dict(zip(COLUMNS, whole.T, strict=True))
    _, from_end = np.unique(every["step"][::-1], return_index=True)  # of each step the line that was written last
    kept = whole[len(whole) - 1 - from_end]
    return Steps(dict(zip(COLUMNS, kept.T, strict=True)), every["attempt"], every["time"], every["step"])
