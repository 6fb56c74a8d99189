"""Reads JSON that a killed process may have left unfinished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


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
