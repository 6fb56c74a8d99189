"""A region of a JPEG that has restart markers, cut out of its bytes before anything is decoded.

Decoding starts afresh after a restart marker (ITU-T T.81, E.1.4). So the segments between the markers that hold the
region, put together under a header that states their size, are a smaller JPEG with the same pixels.
`megabatch data repack` writes JPEGs with a marker every few coded units; only their crops are decoded, with any decoder.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from megabatch.data.jpeg.header import JpegHeader, Region

_DEFINE_RESTART_INTERVAL, _START_OF_SCAN = 0xDD, 0xDA
_FIRST_RESTART = 0xD0  # they count from 0 to 7, again and again
_END_OF_IMAGE = 0xD9
_MARKER = 2  # bytes
_MARGIN = 2  # pixels: smooth upsampling of colour mixes in one sample, two pixels, beyond the region


def restart_interval(width: int, unit_width: int, most: int = 4) -> int:
    """Return after how many coded units a marker shall stand, so that no segment goes from one row into the next.

    Every fourth unit is the best for crops: more markers take more bytes, fewer leave more to decode around a crop.
    """
    units = -(-width // unit_width)
    return next(interval for interval in range(most, 0, -1) if units % interval == 0)


def decode_cut(payload: memoryview | bytes, header: JpegHeader, region: Region) -> NDArray[np.uint8] | None:
    """Return the region as uint8 RGB, equal to that part of a full decode.

    None means that this JPEG has no restart markers where they would help, or is damaged: decode it in another way.
    """
    found = _interval_and_data(payload, header)
    units, rows = -(-header.width // header.unit_width), -(-header.height // header.unit_height)
    if found is None or units % found.interval:
        return None
    data = np.frombuffer(payload, dtype=np.uint8)[found.data_at :]
    ends = _segment_ends(data, rows * units // found.interval)
    if ends is None:
        return None
    segment_width = found.interval * header.unit_width
    top, bottom = _covered(region.top, region.height, header.unit_height, header.height)
    left, right = _covered(region.left, region.width, segment_width, header.width)
    chosen_rows = slice(top // header.unit_height, -(-bottom // header.unit_height))
    chosen = ends.reshape(rows, -1), chosen_rows, slice(left // segment_width, -(-right // segment_width))
    start = bytearray(payload[: found.data_at])
    start[header.size_at : header.size_at + 4] = (bottom - top).to_bytes(2, "big") + (right - left).to_bytes(2, "big")
    try:
        pixels = simplejpeg.decode_jpeg(bytes(start) + _joined(data, *chosen).tobytes(), "RGB")
    except ValueError:
        return None
    y, x = region.top - top, region.left - left
    part: NDArray[np.uint8] = pixels[y : y + region.height, x : x + region.width]
    return part


class _Restarts(NamedTuple):
    """After how many coded units there is a marker, and the byte where the data begin."""

    interval: int
    data_at: int


def _interval_and_data(payload: memoryview | bytes, header: JpegHeader) -> _Restarts | None:
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


def _segment_ends(data: NDArray[np.uint8], count: int) -> NDArray[np.int64] | None:
    """Return where the marker after each segment stands; None if there are not `count`, numbered as they should be.

    The last is the marker of the end of the image.
    """
    at = np.flatnonzero(data[:-1] == 0xFF)
    after = data[at + 1]
    is_restart = after & 0xF8 == _FIRST_RESTART
    at, after = at[is_restart], after[is_restart]
    if len(at) != count - 1 or (after & 7 != np.arange(count - 1) & 7).any():
        return None
    return np.append(at, len(data) - _MARKER)


def _covered(first: int, size: int, step: int, limit: int) -> tuple[int, int]:
    """Return the pixels from a multiple of `step` to another, or to the limit, that hold the range and its margin."""
    begin = max(first - _MARGIN, 0) // step * step
    return begin, min(-(-(first + size + _MARGIN) // step) * step, limit)


def _joined(data: NDArray[np.uint8], ends: NDArray[np.int64], rows: slice, columns: slice) -> NDArray[np.uint8]:
    """Return the segments of these rows and columns, their markers numbered anew, the last one an end of image."""
    starts = (np.append(-_MARKER, ends.ravel()[:-1]) + _MARKER).reshape(ends.shape)[rows, columns]
    ends = ends[rows, columns]
    pieces = zip(starts[:, 0].tolist(), (ends[:, -1] + _MARKER).tolist(), strict=True)
    joined = np.concatenate([data[start:end] for start, end in pieces])
    markers = np.cumsum(ends - starts + _MARKER) - 1
    joined[markers] = _FIRST_RESTART | np.arange(len(markers)) & 7
    joined[-1] = _END_OF_IMAGE
    return joined
