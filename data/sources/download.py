"""One file from a URL to disk: tries again with growing pauses, and goes on where the last try ended."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from io import BytesIO
from typing import BinaryIO, TypeVar

from megabatch.configs.cache import Cache
from megabatch.data.errors import DataError
from megabatch.data.hashing import RandomStream, key
from megabatch.data.sources.places import visible
from megabatch.data.sources.remote import InterruptedTransferError, Stream, open_at

_LONGEST_PAUSE_SECONDS = 30.0
_FIRST_PAUSE_SECONDS = 0.5
_PROGRESS_BYTES = 1 << 20  # a try that brings this much does not count
_SLOWEST_BYTES_PER_SECOND = 1024
Result = TypeVar("Result")


class OtherFileError(DataError):
    """What the server sends is not the file that was asked for."""


def download(
    place: str, file: BinaryIO, settings: Cache, size: int | None = None, pause: Callable[[float], None] = time.sleep
) -> None:
    """Append to `file` what is missing of it.

    Raises DataError after `settings.attempts` tries without progress, at once for what no try will change, and
    OtherFileError if the whole does not have `size` bytes.
    """
    validator: str | None = None

    def attempt() -> None:
        nonlocal validator
        offset = file.seek(0, os.SEEK_END)
        if offset == size:
            return
        try:
            with closing(open_at(place, offset, validator, settings.timeout_seconds)) as stream:
                validator = stream.validator
                _append(place, file, stream, size, settings.timeout_seconds)
        except InterruptedTransferError as error:
            if error.from_the_start:
                file.truncate(0)
            raise

    repeated(place, settings, attempt, lambda: file.seek(0, os.SEEK_END), pause)


def repeated(
    place: str,
    settings: Cache,
    attempt: Callable[[], Result],
    position: Callable[[], int] = lambda: 0,
    pause: Callable[[float], None] = time.sleep,
) -> Result:
    """Return what `attempt` returns, after as many tries as may be; one that moved `position` far does not count."""
    tries = 0
    while True:
        before = position()
        try:
            return attempt()
        except InterruptedTransferError as error:
            tries = 1 if position() - before >= _PROGRESS_BYTES else tries + 1
            if tries >= settings.attempts:
                raise DataError(
                    f"{visible(place)}: could not be read in {tries} tries. The last one: {error}. "
                    "Check the server and the network, then start again"
                ) from None
            pause(max(error.wait_seconds, _pause_seconds(tries)))


def read_small(place: str, settings: Cache) -> bytes:
    """Return the content of a file that is a list or a description, no shard. Raises DataError."""
    content = BytesIO()
    download(place, content, settings)
    return content.getvalue()


def _append(place: str, file: BinaryIO, stream: Stream, size: int | None, timeout_seconds: float) -> None:
    if size is not None and stream.total is not None and stream.total != size:
        kind = f" of {stream.content_type}" if stream.content_type else ""
        raise OtherFileError(
            f"{visible(place)}: {stream.total:,} bytes{kind}, but dataset.json recorded {size:,}: the shard was "
            "changed, or this is an error page. Copy the shard again, or index the shards anew"
        )
    if stream.start > file.seek(0, os.SEEK_END):
        raise InterruptedTransferError("the server began too late in the file", from_the_start=True)
    file.seek(stream.start)
    file.truncate()  # a server that ignores Range begins anew, and so do we
    began, written = time.monotonic(), 0
    for chunk in stream.chunks:
        file.write(chunk)
        written += len(chunk)
        elapsed = time.monotonic() - began
        if elapsed > timeout_seconds and written < elapsed * _SLOWEST_BYTES_PER_SECOND:
            raise InterruptedTransferError(f"only {written:,} bytes came in {elapsed:.0f} s")
    file.flush()
    end = file.tell()
    whole = stream.total if stream.total is not None else size
    if whole is not None and end < whole:
        raise InterruptedTransferError(f"the body ended after {end:,} of {whole:,} bytes")
    if whole is not None and end > whole:
        raise InterruptedTransferError(f"the body has {end:,} bytes instead of {whole:,}", from_the_start=True)


def _pause_seconds(tries: int) -> float:
    """Return 0.5, 1, 2, ... up to 30 seconds, less a random part of up to a half: many ranks must not come at once."""
    longest = min(_FIRST_PAUSE_SECONDS * 2.0 ** (tries - 1), _LONGEST_PAUSE_SECONDS)
    return longest * RandomStream(key(os.getpid(), time.monotonic_ns(), tries)).uniform(0.5, 1.0)
