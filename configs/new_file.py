"""Writes a file under a name that nobody else can have prepared: what stands there, a planted link too, is removed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

FOR_ITS_OWNER = 0o600


def open_new(file: Path, mode: int = 0o666) -> IO[str]:
    """Open a new file to write text; the umask is taken from `mode`. Raises OSError, also if somebody is faster."""
    file.unlink(missing_ok=True)
    return open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8")  # noqa: PTH123


def write_new(file: Path, text: str, mode: int = 0o666) -> None:
    """Write a text like that."""
    with open_new(file, mode) as opened:
        opened.write(text)


def write_whole(file: Path, text: str) -> None:
    """Write a file that is there whole, or as it was before."""
    hidden = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        write_new(hidden, text)
        hidden.rename(file)
    finally:
        hidden.unlink(missing_ok=True)
