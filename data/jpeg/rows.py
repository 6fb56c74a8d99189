"""The upper rows of a JPEG with simplejpeg, which has no crop of its own.

Sequential JPEG data is in the order of the rows. A copy whose header states a smaller height decodes to the same upper
rows, and the decoder stops there. It then finds bytes where it expects the end, and says so; that complaint, as the
first and only one, is the sign that all rows before it were whole.
"""

from __future__ import annotations

import re

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from megabatch.data.jpeg.header import JpegHeader

# libjpeg keeps the first warning only, so damage in the rows that count would stand here instead.
_ONLY_THE_REST_IS_LEFT = re.compile(r"^Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9$")


def decode_upper_rows(payload: memoryview | bytes, header: JpegHeader, rows: int) -> NDArray[np.uint8] | None:
    """Return at least the first `rows` rows as uint8 RGB, equal to those of a full decode.

    None means that this way does not work for this JPEG, perhaps because it is damaged: decode all of it.
    """
    # One row more than needed: smooth upsampling of colour looks at the next one.
    height = -(-(rows + 1) // header.unit_height) * header.unit_height
    if height >= header.height:
        return None
    shortened = bytearray(payload)
    shortened[header.size_at : header.size_at + 2] = height.to_bytes(2, "big")
    pixels = np.empty((height, header.width, 3), dtype=np.uint8)
    try:
        simplejpeg.decode_jpeg(shortened, "RGB", buffer=pixels)
    except ValueError as complaint:
        return pixels if _ONLY_THE_REST_IS_LEFT.match(str(complaint)) else None
    return None
