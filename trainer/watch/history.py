"""RUN_DIR/rank-history.jsonl: how each rank waited and what memory it took, over a whole training, restarts included.

A line is written every ten seconds or so, half as often after every 250 lines: some 1,300 in a day, 2,000 in a week.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from megabatch.trainer.aside import Aside
from megabatch.trainer.line_file import LineFile
from megabatch.trainer.watch.beats import Beat
from megabatch.trainer.watch.shown import told_of

_SECONDS = 10.0
_LINES_OF_AN_INTERVAL = 250
_SHOWN_RANKS = 64


class RankHistory:
    """Gets the beats of all ranks every few seconds and writes some of them; `attempt` is None while none trains."""

    def __init__(self, file: Path, attempt: Callable[[], int | None]):
        self._lines = LineFile(file)
        self._written: int | None = None  # lines; not known until the first is to be written
        self._attempt = attempt
        self._aside = Aside()
        self._wrote_at = float("-inf")

    def __call__(self, beats: Sequence[Beat]) -> None:
        """Write them soon, if it is time."""
        attempt, now = self._attempt(), time.monotonic()
        if attempt is None or now - self._wrote_at < interval_seconds(self._written or 0):
            return
        line = {"time": round(time.time(), 3), "attempt": attempt, "step": beats[0].step, **chosen(beats)}
        self._wrote_at = now
        self._aside.begin(lambda: self._append(line))

    def _append(self, line: dict[str, Any]) -> None:
        if self._written is None:
            self._written = _lines_of(self._lines.path)
        self._lines.append(line)
        self._written += 1


def interval_seconds(lines: int) -> float:
    """Return for how long nothing is written after so many lines.

    >>> [interval_seconds(lines) for lines in (0, 249, 250, 1000)]
    [10.0, 10.0, 20.0, 160.0]
    """
    return float(_SECONDS * 2 ** (lines // _LINES_OF_AN_INTERVAL))


def chosen(beats: Sequence[Beat]) -> dict[str, Any]:
    """Return what is told of the ranks; of many only of those that wait least for others, and of those that do most."""
    if len(beats) <= _SHOWN_RANKS:
        return {"ranks": [told_of(beat) for beat in beats]}
    by_waiting = sorted(beats, key=lambda beat: (beat.waits is None, beat.waits or 0.0, beat.rank))
    ends = by_waiting[: _SHOWN_RANKS // 2] + by_waiting[-_SHOWN_RANKS // 2 :]
    told = [told_of(beat) for beat in sorted(ends, key=lambda beat: beat.rank)]
    return {"ranks": told, "left_out": len(beats) - len(told)}


def _lines_of(file: Path) -> int:
    if not file.exists():
        return 0
    with file.open("rb") as opened:
        return sum(1 for _ in opened)
