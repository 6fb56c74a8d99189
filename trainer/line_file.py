"""Logs of a run, a JSON object a line: appended at once, and kept in memory while the disk takes nothing."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from megabatch.configs.metrics import end_last_line


class LineFile:
    """Appends lines without a buffer, so that none is lost when the process is killed.

    While the disk is full or cannot be written, lines wait in memory; the training goes on. The file is made by its
    first line; `keep_open` is for one that gets a line at every step, and is to be closed.
    """

    def __init__(self, path: Path, keep_open: bool = False):
        self.path = path
        self._keep_open = keep_open
        self._file: FileIO | None = None
        self._waiting = b""

    def append(self, *lines: dict[str, Any]) -> None:
        """Write the lines, or keep them until more can be written."""
        waited = bool(self._waiting)
        self._waiting += b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        error = self._write()
        if error is not None and not waited:
            _warn(f"{self.path}: {error}. Lines wait in memory")

    def close(self) -> None:
        """Write what waits, if that is possible now, and close the file."""
        error = self._write()
        if error is not None:
            lost = self._waiting.count(b"\n")
            _warn(f"{self.path}: {error}. Its last {lost:,} lines are lost")
        self._release()

    def _write(self) -> OSError | None:
        if not self._waiting:
            return None
        try:
            if self._file is None:
                self._file = self._opened()
            while self._waiting:
                written = self._file.write(self._waiting) or 0
                self._waiting = self._waiting[written:]
        except OSError as error:
            return error
        finally:
            if not self._keep_open:
                self._release()
        return None

    def _opened(self) -> FileIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        end_last_line(self.path)
        return self.path.open("ab", buffering=0)

    def _release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _warn(text: str) -> None:
    with suppress(OSError):  # the log may lie on the same disk
        print(f"warning: {text}", file=sys.stderr)
