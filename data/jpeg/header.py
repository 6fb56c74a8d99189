"""The few numbers of a JPEG header that decoding a part of it needs, read without a library call.

Markers: ITU-T T.81, annex B. Nothing here is trusted beyond this: a decoder reads the whole header again.
"""

from __future__ import annotations

from typing import NamedTuple

_START_OF_IMAGE = b"\xff\xd8"
_END_OF_IMAGE = b"\xff\xd9"
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # those three are tables and reserved
_SEQUENTIAL = (0xC0, 0xC1)  # Huffman, not progressive
_WITHOUT_LENGTH = frozenset(range(0xD0, 0xDA)) | {0x01}
_BLOCK = 8  # pixels
_BYTES_PER_COMPONENT = 3


class Region(NamedTuple):
    """A part of an image in pixels."""

    top: int
    left: int
    height: int
    width: int


class JpegHeader(NamedTuple):
    """Size in pixels, and what a partial decode must know.

    `sequential` is true for one pass over 8-bit Huffman data that ends with an end marker; `unit_height` and
    `unit_width` are the pixels of one minimum coded unit; `size_at` is the byte where the height stands.
    """

    height: int
    width: int
    components: int
    sequential: bool
    unit_height: int
    unit_width: int
    size_at: int

    @property
    def subsampled(self) -> bool:
        """Return whether colour has fewer samples than brightness, so that neighbours mix at the edge of a part."""
        return (self.unit_height, self.unit_width) != (_BLOCK, _BLOCK)


def read_header(payload: memoryview | bytes) -> JpegHeader | None:
    """Return the header of a JPEG; None if this is no JPEG or no frame header is found."""
    if payload[:2] != _START_OF_IMAGE:
        return None
    at, end = 2, len(payload) - 9
    while at < end:
        if payload[at] != 0xFF:
            return None
        marker = payload[at + 1]
        if marker == 0xFF or marker in _WITHOUT_LENGTH:
            at += 1 if marker == 0xFF else 2  # fill bytes may come before a marker
            continue
        length = payload[at + 2] << 8 | payload[at + 3]
        if marker in _START_OF_FRAME:
            return _frame(payload, at + 4, length - 2, marker)
        at += 2 + length
    return None


def _frame(payload: memoryview | bytes, at: int, length: int, marker: int) -> JpegHeader | None:
    segment = bytes(payload[at : at + length])
    components = segment[5] if len(segment) > 5 else 0
    sampling = segment[7 : 6 + _BYTES_PER_COMPONENT * components : _BYTES_PER_COMPONENT]
    if not sampling or len(sampling) != components:
        return None
    # One component has units of one block, whatever sampling it claims (T.81, A.2.2).
    across = max(factors >> 4 for factors in sampling) if components > 1 else 1
    down = max(factors & 15 for factors in sampling) if components > 1 else 1
    whole = payload[-2:] == _END_OF_IMAGE
    return JpegHeader(
        height=segment[1] << 8 | segment[2],
        width=segment[3] << 8 | segment[4],
        components=components,
        sequential=marker in _SEQUENTIAL and segment[0] == 8 and whole,
        unit_height=_BLOCK * down,
        unit_width=_BLOCK * across,
        size_at=at + 1,
    )
