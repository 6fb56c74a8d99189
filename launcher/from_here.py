"""How the path of a run folder or of a file in it is shown, and written into recipes."""

from __future__ import annotations

from pathlib import Path


def from_here(path: Path) -> str:
    """Return the path from the current folder where it lies below that, else the whole path."""
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)
