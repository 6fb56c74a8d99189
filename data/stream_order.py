"""Which streams a recipe names, and the order of training over them: none that could be stated. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megabatch.data.draws import Draws
from megabatch.data.errors import DataError
from megabatch.data.sources.spec import expand_braces

PIPE = "pipe:"


@dataclass(frozen=True)
class StreamOrder:
    """Draws that are only counted: which sample each of them is, the stream decides."""

    samples: int

    def draws(self, epoch: int, start: int, stop: int) -> Draws:
        """Return the numbers of the draws of an epoch as sample ids."""
        numbers = np.arange(start, stop, dtype=np.int64)
        return Draws(numbers, np.zeros_like(numbers))


def expand(urls: str, allow_pipe: bool) -> list[str]:
    """Return the streams of a specification with braces. Raises DataError for a command that is not allowed."""
    streams = expand_braces(urls)
    for stream in streams:
        if stream.startswith(PIPE) and not allow_pipe:
            raise DataError(
                f"{stream!r} is a shell command, run on every node: allow it with data.train_stream.allow_pipe: true"
            )
        if ":" in stream.partition("/")[0] and not stream.startswith(PIPE):
            raise DataError(
                f"{stream!r}: a stream is a file or `pipe:COMMAND`; data.path reads http, s3 and gs exactly"
            )
    return streams
