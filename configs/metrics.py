"""Reads RUN_DIR/metrics.jsonl: the last attempt of each step, in order. Half lines of killed processes are left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_metrics(file: Path, kind: str) -> list[dict[str, Any]]:
    """Return the lines of a kind ("step" or "evaluation"), one for each step (and split), sorted by step.

    Steps trained again after a restart stand in the file once for each attempt; the last attempt counts.
    """
    last: dict[tuple[int, str], dict[str, Any]] = {}
    for text in file.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if line.get("kind") == kind:
            last[line["step"], line.get("split", "")] = line
    return [last[key] for key in sorted(last)]


def end_last_line(file: Path) -> None:
    """End a line that a kill has cut short, so that the next one stands alone."""
    if file.exists() and file.stat().st_size and not file.read_bytes().endswith(b"\n"):
        with file.open("a", encoding="utf-8") as opened:
            opened.write("\n")
