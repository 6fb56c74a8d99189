"""Reads JSON that a killed process may have left unfinished."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

_TAIL_BYTES = 1 << 17


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a file; an empty one if there is no file, or it was cut short."""
    try:
        return json_object(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return {}


def json_object(text: str) -> dict[str, Any]:
    """Return the object that a text is; an empty one if it is none.

    >>> json_object('{"step": 3}'), json_object('{"st'), json_object("7")
    ({'step': 3}, {}, {})
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def tail(file: Path) -> list[dict[str, Any]]:
    """Return the last lines of a .jsonl file: a long run has a long one."""
    if not file.exists():
        return []
    with file.open("rb") as opened:
        opened.seek(max(0, opened.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = opened.read().decode(errors="replace").splitlines()
    return [line for text in lines if (line := json_object(text))]
