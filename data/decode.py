"""Encoded bytes to pixels: uint8 RGB of shape (height, width, 3). Only the formats of data/formats.py are opened.

The size is read from the header and checked before any pixel is decoded, so a small file cannot fill the memory.
A part of a JPEG is decoded without the rest where that is possible; which way was taken never changes a pixel.
"""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from megabatch.data.formats import FORMATS, NAMES
from megabatch.data.jpeg.cut import decode_cut
from megabatch.data.jpeg.header import JpegHeader, Region, read_header
from megabatch.data.jpeg.rows import decode_upper_rows
from megabatch.data.jpeg.turbojpeg3 import find_turbojpeg3

Pixels = NDArray[np.uint8]
_JPEG_START = b"\xff\xd8\xff"
Image.MAX_IMAGE_PIXELS = None  # _check_size comes before any pixel is decoded, with the recipe's limit
_PILLOW_FORMATS = tuple(image_format.name for image_format in FORMATS)


def decode_image(payload: memoryview | bytes, max_pixels: int) -> Pixels:
    """Decode one image to uint8 RGB, shape (height, width, 3).

    Raises ValueError with the reason for anything that is not a whole image of at most `max_pixels`.
    """
    if payload[:3] == _JPEG_START:
        height, width, color_space, _ = simplejpeg.decode_jpeg_header(payload)
        _check_size(height, width, max_pixels)
        if color_space in ("YCbCr", "Gray", "RGB"):
            pixels: Pixels = simplejpeg.decode_jpeg(payload, "RGB")
            return pixels
    return _decode_with_pillow(payload, max_pixels)


class EncodedImage:
    """One image whose size is known and whose pixels are decoded when asked for.

    Raises ValueError like decode_image. Damage is noticed in the part that is decoded, and at the end of the file.
    """

    def __init__(self, payload: memoryview | bytes, max_pixels: int):
        self._payload = payload
        self._header = _partly_decodable(payload)
        self._whole: Pixels | None = None
        if self._header is None:
            self._whole = decode_image(payload, max_pixels)
            self.height, self.width = self._whole.shape[:2]
        else:
            self.height, self.width = self._header.height, self._header.width
            _check_size(self.height, self.width, max_pixels)

    def region(self, region: Region) -> Pixels:
        """Decode the region; the same pixels as that part of the whole image."""
        top, left, height, width = region
        if self._header is None:
            assert self._whole is not None
            return self._whole[top : top + height, left : left + width]
        part = decode_cut(self._payload, self._header, region)
        if part is not None:
            return part
        library = find_turbojpeg3().library
        part = library.decode_region(self._payload, self._header, region) if library else None
        if part is not None:
            return part
        rows = decode_upper_rows(self._payload, self._header, top + height)
        if rows is None:
            rows = simplejpeg.decode_jpeg(self._payload, "RGB")
        return rows[top : top + height, left : left + width]


def _partly_decodable(payload: memoryview | bytes) -> JpegHeader | None:
    header = read_header(payload)
    usable = header is not None and header.sequential and header.components in (1, 3) and header.height and header.width
    return header if usable else None


def _decode_with_pillow(payload: memoryview | bytes, max_pixels: int) -> Pixels:
    try:
        with Image.open(io.BytesIO(payload), formats=_PILLOW_FORMATS) as image:
            _check_size(image.height, image.width, max_pixels)
            if image.mode.startswith("I"):  # 16-bit grey: convert("RGB") would clip it to white
                grey = (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
            if image.mode == "F":
                raise ValueError("floating-point pixels, whose range nobody states: convert them to 8 or 16 bits")
            return np.array(image.convert("RGB"))  # the first picture of an animation
    except UnidentifiedImageError:
        raise ValueError(f"not a {NAMES} image") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow raises SyntaxError for broken PNGs
        raise ValueError(f"broken image: {error}") from None


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise ValueError(f"{width} x {height} pixels are more than data.max_image_pixels = {max_pixels}")
