"""What stands in the files that wandb wrote, as wandb's own reader tells it (`wandb leet inspect`)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def records(folder: Path) -> list[dict[str, Any]]:
    """Return every record of the run in a folder like offline-run-20261130_120000-abcd1234."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def rows(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the history, as they were logged."""
    return [record["history"]["item"] for record in found if record["type"] == "history"]


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the summary comes to."""
    merged: dict[str, Any] = {}
    for record in found:
        merged |= record.get("summary", {}).get("update", {})
    return merged
