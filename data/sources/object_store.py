"""s3 and gs through fsspec's s3fs and gcsfs, which find credentials where the tools of the provider do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, TypeVar

from megabatch.data.errors import DataError
from megabatch.data.sources.places import visible
from megabatch.data.sources.remote import InterruptedTransferError, Stream, missing, refused

_BLOCK_BYTES = 16 << 20  # one request each: few enough to be quick, small enough for the memory of many threads
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
_NO_CREDENTIALS = re.compile(r"Credential|RefreshError|TokenRetrieval|InvalidAccessKey|SignatureDoesNotMatch")
_URL = re.compile(r"\b[a-z0-9]+://\S+")
Result = TypeVar("Result")


def open_at(place: str, offset: int) -> Stream:
    """Begin to read at byte `offset`, by requests for one block after the other."""
    total = size_of(place)
    return Stream(offset, total, _chunks(place, offset, total), close=lambda: None)


def size_of(place: str) -> int:
    """Return the size of an object in bytes."""
    files = _files_of(place)
    return int(_told(place, lambda: files.info(place)["size"]))


def matching(pattern: str) -> list[str]:
    """Return the objects that a pattern matches, sorted."""
    scheme = pattern.partition("://")[0]
    files = _files_of(pattern)
    return [f"{scheme}://{path}" for path in sorted(_told(pattern, lambda: files.glob(pattern)))]


def _chunks(place: str, start: int, total: int) -> Iterator[bytes]:
    files = _files_of(place)
    while start < total:
        stop = min(start + _BLOCK_BYTES, total)
        chunk: bytes = _told(place, partial(files.cat_file, place, start=start, end=stop))
        if not chunk:
            return
        start += len(chunk)
        yield chunk


@cache
def _file_system(scheme: str) -> Any:  # Any: fsspec has no types
    import fsspec  # type: ignore[import-untyped]

    # One object for all threads: fsspec would make one, with its connections, for each thread that asks.
    return fsspec.filesystem(scheme, skip_instance_cache=True, use_listings_cache=False)


def _files_of(place: str) -> Any:  # Any: fsspec has no types
    scheme = place.partition("://")[0]
    try:
        return _told(place, lambda: _file_system(scheme))
    except ImportError:
        raise DataError(
            f"{visible(place)}: {scheme}:// is read by {_PACKAGES[scheme]}, which is not installed. "
            f"Install it on every node: pip install 'megabatch[{scheme}]'"
        ) from None


def _told(place: str, action: Callable[[], Result]) -> Result:
    """Do something with an object store and tell its failures apart; each provider raises errors of its own."""
    try:
        return action()
    except (DataError, ImportError):
        raise
    except FileNotFoundError:
        raise missing(place) from None
    except Exception as error:  # botocore's, aiohttp's, google's: no common base
        told = f"{type(error).__name__}: {_without_secrets(str(error))}"
        if isinstance(error, PermissionError) or _NO_CREDENTIALS.search(told):
            raise refused(place, told) from None
        raise InterruptedTransferError(told) from None


def _without_secrets(text: str) -> str:
    first = (text.splitlines() or [""])[0][:200]
    return _URL.sub(lambda match: visible(match[0]), first)
