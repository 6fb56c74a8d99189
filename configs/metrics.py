"""Reads RUN_DIR/metrics.jsonl: the last attempt of each step, in order. Half lines of killed processes are left out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Any

OF_STEPS = ("step", "trust_ratios", "evaluation")  # kinds of lines that belong to a step
_ATTEMPT = re.compile(rb'"attempt": (\d+)')
_END_BYTES = 1 << 16


def read_metrics(file: Path, kind: str) -> list[dict[str, Any]]:
    """Return the lines of a kind ("step" or "evaluation"), one for each step (and split), sorted by step.

    Steps trained again after a restart stand in the file once for each attempt; the last attempt counts.
    """
    last = {(line["step"], line.get("split", "")): line for line in read_lines(file) if line.get("kind") == kind}
    return [last[key] for key in sorted(last)]


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Return every line that belongs to a step, the last attempt of each, as a run without restarts writes them.

    That is step by step; within one the numbers of the step, its trust ratios, then the evaluations.
    """
    last = {
        (line["step"], OF_STEPS.index(line["kind"]), line.get("split", "")): line
        for line in read_lines(file)
        if line.get("kind") in OF_STEPS
    }
    return [last[key] for key in sorted(last, key=itemgetter(0, 1))]


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield every line as it was written, but for half ones."""
    for text in file.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):
            yield json.loads(text)


def last_attempt(file: Path) -> int:
    """Return the number of the attempt that wrote last, from the end of the file; 0 if none has written a step."""
    if not file.exists():
        return 0
    with file.open("rb") as opened:
        opened.seek(max(0, opened.seek(0, os.SEEK_END) - _END_BYTES))
        end = opened.read()
    return max((int(found[1]) for found in _ATTEMPT.finditer(end)), default=0)


def end_last_line(file: Path) -> None:
    """End a line that a kill has cut short, so that the next one stands alone."""
    if not file.exists() or not file.stat().st_size:
        return
    with file.open("rb+") as opened:
        opened.seek(-1, os.SEEK_END)
        if opened.read() != b"\n":
            opened.write(b"\n")
