"""Standard output and error that outlive whoever reads them: a pager that was left, a lost terminal, a full disk.

What is printed is for people; metrics.jsonl and the failure files are the record. So a line that cannot be printed is
dropped, and neither a launch nor a training ends because of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO, cast

_STANDARD = (0, 1, 2)


class LastingStream:
    """A text stream whose writes never fail. Everything but writing is the stream's own."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written; what cannot is lost."""
        self._or_drop(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        self._or_drop(self._stream.flush)

    def _or_drop(self, action: Callable[[], object]) -> None:
        try:
            action()
        except BrokenPipeError:  # nobody will ever read it: what still waits in the buffers must not fail later
            with suppress(OSError), Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())
        except OSError:  # a disk that is full now may have room later
            return

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def outlive_readers() -> None:
    """Make standard output and error of this process last.

    Where one was closed (`>&-`), the next file to be opened would take its number, and be printed into.
    """
    for number in _STANDARD:
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            assert opened == number, "the lowest free number is the one that was closed"
            os.set_inheritable(number, True)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name) or os.fdopen(number, "w", encoding="utf-8", closefd=False)
        setattr(sys, name, cast(TextIO, LastingStream(stream)))
