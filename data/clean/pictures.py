"""Images for the report: small WebP pictures in the page itself, until its room is used up."""

from __future__ import annotations

import base64
import io
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from megabatch.data.clean.inspect import content_kind
from megabatch.data.clean.scan import Scan
from megabatch.data.decode import Pixels, decode_image

_SIDE = 160
_QUALITY = 70


class Picture(NamedTuple):
    """A picture as a data URI, with its width and height."""

    uri: str
    width: int
    height: int


class Album:
    """Makes pictures of samples, and counts in `room_bytes` how much room is left for more."""

    def __init__(self, scan: Scan, max_pixels: int, room_bytes: int):
        self._scan = scan
        self._max_pixels = max_pixels
        self.room_bytes = room_bytes

    def picture(self, sample: int) -> Picture | None:
        """Return the picture of a sample, None if nothing of it can be shown."""
        pixels = _shown_pixels(self._scan.image_of(sample), self._max_pixels)
        if pixels is None:
            return None
        image = Image.fromarray(pixels)
        image.thumbnail((_SIDE, _SIDE))
        file = io.BytesIO()
        image.save(file, "WEBP", quality=_QUALITY)
        uri = "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
        self.room_bytes -= len(uri)
        return Picture(uri, *image.size)


def _shown_pixels(payload: bytes, max_pixels: int) -> Pixels | None:
    """Decode an image, and of a broken JPEG what there is of it."""
    with suppress(Exception):  # whatever a reader raises, the page does without this picture
        return decode_image(payload, max_pixels)
    try:
        if content_kind(payload) != "jpg":
            return None
        height, width, _, _ = simplejpeg.decode_jpeg_header(payload)
        if height * width > max_pixels:
            return None
        pixels: Pixels = simplejpeg.decode_jpeg(payload, "RGB", strict=False)
        return None if np.ptp(pixels) == 0 else pixels
    except ValueError:
        return None
