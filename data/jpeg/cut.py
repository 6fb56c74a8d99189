"""A region of a JPEG that has restart markers, cut out of its bytes before anything is decoded.

Decoding starts afresh after a restart marker (ITU-T T.81, E.1.4). So the segments between the markers that hold the
region, put together under a header that states their size, are a smaller JPEG with the same pixels.
`megabatch data repack` writes JPEGs with a marker every few coded units, so little more than a crop of them is decoded.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from megabatch.data.jpeg.header import JpegHeader, Region

_DEFINE_RESTART_INTERVAL, _START_OF_SCAN = 0xDD, 0xDA
_FIRST_RESTART = 0xD0
_NUMBERS = np.tile(np.arange(8, dtype=np.uint8), 1 << 13)  # of the restart markers; enough for 30 megapixels
_END_OF_IMAGE = 0xD9
_MARKER = 2  # bytes
_MARGIN = 2  # pixels: smooth upsampling of colour mixes in one sample, two pixels, beyond the region
_INTERVAL = 2  # coded units; more markers take more bytes, fewer leave more to decode around a crop


def restart_interval(width: int, unit_width: int) -> int:
    """Return after how many coded units a marker shall stand, so that no segment goes from one row into the next."""
    units = -(-width // unit_width)
    return _INTERVAL if units % _INTERVAL == 0 else 1


def decode_cut(payload: memoryview | bytes, header: JpegHeader, region: Region) -> NDArray[np.uint8] | None:
    """Return the region as uint8 RGB, equal to that part of a full decode.

    None means that this JPEG has no restart markers where they would help, or is damaged: decode it in another way.
    """
    found = _restarts(payload, header)
    units, rows = -(-header.width // header.unit_width), -(-header.height // header.unit_height)
    if found is None or units % found.interval:
        return None
    bounds = _segment_bounds(payload, found.data_at, rows * units // found.interval)
    if bounds is None:
        return None
    segment_width = found.interval * header.unit_width
    top, bottom = _covered(region.top, region.height, header.unit_height, header.height)
    left, right = _covered(region.left, region.width, segment_width, header.width)
    chosen = (
        slice(top // header.unit_height, -(-bottom // header.unit_height)),
        slice(left // segment_width, -(-right // segment_width)),
    )
    smaller = bytearray(payload[: found.data_at])
    smaller[header.size_at : header.size_at + 4] = (bottom - top).to_bytes(2, "big") + (right - left).to_bytes(2, "big")
    _append(smaller, payload, *(bound.reshape(rows, -1)[chosen] for bound in bounds))
    try:
        pixels = simplejpeg.decode_jpeg(smaller, "RGB")
    except ValueError:
        return None
    y, x = region.top - top, region.left - left
    part: NDArray[np.uint8] = pixels[y : y + region.height, x : x + region.width]
    return part


class _Restarts(NamedTuple):
    """After how many coded units there is a marker, and the byte where the data begin."""

    interval: int
    data_at: int


def _restarts(payload: memoryview | bytes, header: JpegHeader) -> _Restarts | None:
    """Read on from the frame header; None without restart markers, or if a scan does not have all components."""
    at, interval = header.size_at - 5, 0
    while at < len(payload) - 6 and payload[at] == 0xFF:
        marker, length = payload[at + 1], payload[at + 2] << 8 | payload[at + 3]
        if marker == _DEFINE_RESTART_INTERVAL:
            interval = payload[at + 4] << 8 | payload[at + 5]
        elif marker == _START_OF_SCAN:
            return _Restarts(interval, at + 2 + length) if interval and payload[at + 4] == header.components else None
        at += 2 + length
    return None


def _segment_bounds(
    payload: memoryview | bytes, data_at: int, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return where each segment begins, and where the marker after it does; after the last one that is the end marker.

    None if there are not `count` segments, or if their markers are not numbered as they should be.
    """
    data = np.frombuffer(payload, dtype=np.uint8)[data_at:]
    at = np.flatnonzero(data[:-1] == 0xFF)
    numbers = data.take(at + 1) - _FIRST_RESTART  # uint8: what is less than the first marker becomes large
    is_restart = numbers < 8
    at, numbers = at.compress(is_restart), numbers.compress(is_restart)
    if len(at) != count - 1 or not np.array_equal(numbers, _NUMBERS[: count - 1]):
        return None
    bounds = np.empty(count + 1, dtype=np.int64)
    bounds[0], bounds[1:-1], bounds[-1] = data_at - _MARKER, at + data_at, len(payload) - _MARKER
    return bounds[:-1] + _MARKER, bounds[1:]


def _covered(first: int, size: int, step: int, limit: int) -> tuple[int, int]:
    """Return the pixels from a multiple of `step` to another, or to the limit, that hold the range and its margin."""
    begin = max(first - _MARGIN, 0) // step * step
    return begin, min(-(-(first + size + _MARGIN) // step) * step, limit)


def _append(
    smaller: bytearray, payload: memoryview | bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> None:
    """Append these rows of segments, their markers numbered anew, the last one an end of image."""
    data_at = len(smaller)
    for start, end in zip(starts[:, 0].tolist(), ends[:, -1].tolist(), strict=True):
        smaller += payload[start : end + _MARKER]
    numbers_at = np.cumsum(ends - starts + _MARKER) + (data_at - 1)
    written = np.frombuffer(smaller, dtype=np.uint8)
    written[numbers_at] = _NUMBERS[: len(numbers_at)] + _FIRST_RESTART
    written[-1] = _END_OF_IMAGE
