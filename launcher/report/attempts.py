"""The starts of a run: when, from which step, on what, and how each ended. From starts.jsonl, else from the metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megabatch.launcher.report.metrics import Steps, number

RUNNING, KILLED = "running", "killed"


@dataclass(frozen=True)
class Attempt:
    """One start of the training. Without a number it is not known."""

    number: int
    started: float
    ended: float | None
    first_step: int
    last_step: int
    num_ranks: int | None
    hosts: tuple[str, ...]
    device: str
    engine: str
    outcome: str  # finished, stopped, failed, killed, running
    cause: str
    versions: tuple[tuple[str, str], ...]

    @property
    def seconds(self) -> float:
        """Return how long it took."""
        return max(0.0, (self.ended or self.started) - self.started)


def attempts_of(
    lines: Sequence[dict[str, Any]], endings: Sequence[dict[str, Any]], steps: Steps, goes_on_at: float | None
) -> list[Attempt]:
    """Return the starts in order. One without an end was killed, unless it is the last one and the run goes on now.

    `endings` are what the launcher said; it knows of ranks that could not say anything themselves.
    """
    starts = [line for line in lines if line.get("kind") == "start" and "attempt" in line]
    if not starts:
        return _from_metrics(steps, goes_on_at)
    ends = {line.get("attempt"): line for line in lines if line.get("kind") == "end"}
    found = []
    for start, following in zip(starts, [*starts[1:], {}], strict=True):
        begun, until = number(start.get("time")), float(following.get("time", math.inf))
        told = [line.get("cause") for line in endings if begun <= number(line.get("time")) < until]
        end = ends.get(start["attempt"], {})
        goes_on = goes_on_at if not following and not end else None
        found.append(_attempt(start, end, told[0] if told else None, steps, goes_on))
    return found


def _attempt(
    start: dict[str, Any], end: dict[str, Any], told: object, steps: Steps, goes_on_at: float | None
) -> Attempt:
    attempt, begun, first = int(start["attempt"]), float(start.get("time") or 0.0), int(start.get("step") or 0)
    ended = end.get("time") or goes_on_at or steps.last_time(attempt, begun)
    return Attempt(
        number=attempt, started=begun, ended=float(ended), first_step=first,
        last_step=int(end.get("step") or steps.last_step(attempt, first)), num_ranks=start.get("ranks"),
        hosts=tuple(map(str, start.get("hosts") or ())), device=str(start.get("device") or ""),
        engine=str(start.get("engine") or ""),
        outcome=str(end.get("outcome") or (KILLED if goes_on_at is None else RUNNING)),
        cause=_cause(end.get("cause"), told if goes_on_at is None else None),
        versions=tuple((str(name), str(text)) for name, text in (start.get("versions") or {}).items()),
    )  # fmt: skip


def _cause(of_ranks: object, of_launcher: object) -> str:
    """Return what caused an end: the launcher knows more if it says it in a line, but may quote a whole traceback."""
    told = str(of_launcher or "")
    return told if told and "\n" not in told else str(of_ranks or told)


def _from_metrics(steps: Steps, goes_on_at: float | None) -> list[Attempt]:
    """Return what the steps alone tell: of a run from before starts.jsonl, or one whose file is gone."""
    numbers = sorted(set(steps.all_attempts.tolist()))
    return [_told_by_steps(int(n), steps, n == numbers[-1], goes_on_at) for n in numbers]


def _told_by_steps(attempt: int, steps: Steps, is_last: bool, goes_on_at: float | None) -> Attempt:
    own = steps.all_attempts == attempt
    times, trained = steps.all_times[own], steps.all_steps[own]
    ended = goes_on_at if is_last and goes_on_at else float(np.max(times))
    last = RUNNING if goes_on_at else "ended"
    return Attempt(
        number=attempt, started=float(np.min(times)), ended=ended, first_step=int(np.min(trained)) - 1,
        last_step=int(np.max(trained)), num_ranks=None, hosts=(), device="", engine="",
        outcome=last if is_last else "interrupted", cause="", versions=(),
    )  # fmt: skip
