"""Reading what lies behind a URL: which transport, and how the outcomes of all of them are told apart.

A transport yields a `Stream`, or raises `InterruptedTransferError` for what another try may mend, `MissingError` for
what is not there, and DataError for what no further try will change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from megabatch.data.errors import DataError
from megabatch.data.sources.places import is_http, visible


class Stream(NamedTuple):
    """Bytes of a file from `start` on. `total` is the size of the whole file, `validator` its ETag, where known."""

    start: int
    total: int | None
    chunks: Iterator[bytes]
    close: Callable[[], None]
    validator: str | None = None
    content_type: str = ""


class InterruptedTransferError(Exception):
    """Another try may succeed; the text says what happened, without secrets. `wait_seconds` is the server's wish."""

    def __init__(self, reason: str, wait_seconds: float = 0.0, from_the_start: bool = False):
        super().__init__(reason)
        self.wait_seconds = wait_seconds
        self.from_the_start = from_the_start


class MissingError(DataError):
    """There is nothing behind the URL."""


class NotAllowedError(DataError):
    """The URL may not be read. Object stores answer so too for what is missing, to those who may not list."""


def missing(place: str) -> MissingError:
    """Return the error for a URL behind which there is nothing."""
    return MissingError(f"{visible(place)}: not found (404). Correct data.path, or copy the file there")


def refused(place: str, reason: str) -> NotAllowedError:
    """Return the error for a URL that may not be read."""
    return NotAllowedError(
        f"{visible(place)}: may not be read ({reason}). Check the credentials of this machine and what they allow "
        "(docs/data.md, 'Where shards come from', says where they are looked for)"
    )


def open_at(place: str, offset: int, validator: str | None, timeout_seconds: float) -> Stream:
    """Begin to read a file at byte `offset`; a server may begin elsewhere all the same, so look at `start`."""
    if is_http(place):
        from megabatch.data.sources import http

        return http.open_at(place, offset, validator, timeout_seconds)
    from megabatch.data.sources import object_store

    return object_store.open_at(place, offset)


def size_of(place: str, timeout_seconds: float) -> int | None:
    """Return the size of a file in bytes, or None where the server does not tell."""
    if is_http(place):
        from megabatch.data.sources import http

        return http.size_of(place, timeout_seconds)
    from megabatch.data.sources import object_store

    return object_store.size_of(place)


def matching(pattern: str) -> list[str]:
    """Return the places that a pattern with * ? [ matches. Raises DataError on a web server, which has no list."""
    if is_http(pattern):
        raise DataError(
            f"{visible(pattern)}: a web server has no list of its files. Write the shards with braces, as in "
            "train-{000000..000099}.tar, or name a folder with a dataset.json, _info.json or sizes.json"
        )
    from megabatch.data.sources import object_store

    return object_store.matching(pattern)
