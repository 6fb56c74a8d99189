"""Standard output and error that nobody has to read."""

from __future__ import annotations

import io
from typing import Any, TextIO

from typing_extensions import override


def steady(stream: TextIO) -> TextIO:
    """Return a stream to the same file that loses what cannot be written: not even a full disk ends the training."""
    raw = _Lossy(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=True)


class _Lossy(io.FileIO):
    @override
    def write(self, data: Any) -> int:  # Any: whatever has a buffer
        try:
            return super().write(data)
        except OSError:
            return len(data)
