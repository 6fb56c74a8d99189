"""http and https through requests. Not through fsspec: it tells neither whether a server obeyed Range nor a short body.

Errors are told in our own words: those of requests contain the whole URL, and a query may be a signature.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import requests
import urllib3

from megabatch.data.errors import DataError
from megabatch.data.sources.places import visible
from megabatch.data.sources.remote import InterruptedTransferError, Stream, missing, refused

_CHUNK_BYTES = 1 << 20
_LONGEST_WISH_SECONDS = 120.0
_TRY_AGAIN = (408, 425, 429)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def open_at(place: str, offset: int, validator: str | None, timeout_seconds: float) -> Stream:
    """Begin to read at byte `offset` (Range and If-Range, RFC 9110 section 14)."""
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if validator:
            headers["If-Range"] = validator
    response = _request("GET", place, headers, timeout_seconds)
    try:
        _require_success(place, response)
        start, total = _span(response)
    except BaseException:
        response.close()
        raise
    etag = response.headers.get("ETag", "")
    strong = etag if etag and not etag.startswith("W/") else None
    return Stream(start, total, _chunks(response), response.close, strong, response.headers.get("Content-Type", ""))


def size_of(place: str, timeout_seconds: float) -> int | None:
    """Return Content-Length; None if the server does not answer HEAD with one."""
    with _request("HEAD", place, {"Accept-Encoding": "identity"}, timeout_seconds) as response:
        length = response.headers.get("Content-Length", "")
        return int(length) if response.ok and length.isdigit() else None


def _request(method: str, place: str, headers: dict[str, str], timeout_seconds: float) -> requests.Response:
    try:
        return requests.request(
            method, place, headers=headers, stream=True, timeout=timeout_seconds, allow_redirects=True
        )
    except requests.exceptions.SSLError:
        raise DataError(
            f"{visible(place)}: the certificate of the server is not trusted. "
            "Set REQUESTS_CA_BUNDLE to the file of your own authority"
        ) from None
    except requests.Timeout:
        raise InterruptedTransferError(f"no answer within {timeout_seconds:g} s") from None
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
        raise InterruptedTransferError("no connection") from None
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
        raise DataError(f"{visible(place)}: cannot be requested ({type(error).__name__})") from None


def _require_success(place: str, response: requests.Response) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    if status in (404, 410):
        raise missing(place)
    if status in (401, 403, 407):
        raise refused(place, f"HTTP {status}")
    if status == 416:
        raise InterruptedTransferError("HTTP 416: the file has become shorter", from_the_start=True)
    if status in _TRY_AGAIN or status >= 500:
        wish = response.headers.get("Retry-After", "")
        raise InterruptedTransferError(
            f"HTTP {status}", min(float(wish), _LONGEST_WISH_SECONDS) if wish.isdigit() else 0.0
        )
    raise DataError(f"{visible(place)}: the server answers HTTP {status}, which is no file")


def _span(response: requests.Response) -> tuple[int, int | None]:
    """Return where the body begins in the file, and how large the file is."""
    if response.status_code == 206:
        match = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if match is None:
            raise InterruptedTransferError("HTTP 206 without a readable Content-Range", from_the_start=True)
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _chunks(response: requests.Response) -> Iterator[bytes]:
    try:
        while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=False):
            yield chunk
    except urllib3.exceptions.ReadTimeoutError:
        raise InterruptedTransferError("the server fell silent") from None
    except (urllib3.exceptions.HTTPError, OSError):
        raise InterruptedTransferError("the connection was cut") from None
