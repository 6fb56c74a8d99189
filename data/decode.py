"""Encoded bytes to pixels: uint8 RGB of shape (height, width, 3). JPEG, PNG and WebP; nothing else is ever opened.

The size is read from the header and checked before any pixel is decoded, so a small file cannot fill the memory.
"""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

Pixels = NDArray[np.uint8]
_JPEG_START = b"\xff\xd8\xff"
_PILLOW_FORMATS = ("JPEG", "PNG", "WEBP")


def decode_image(payload: memoryview | bytes, max_pixels: int) -> Pixels:
    """Decode one image to uint8 RGB, shape (height, width, 3).

    Raises ValueError with the reason for anything that is not a whole JPEG, PNG or WebP of at most `max_pixels`.
    """
    if bytes(payload[:3]) == _JPEG_START:
        height, width, color_space, _ = simplejpeg.decode_jpeg_header(payload)
        _check_size(height, width, max_pixels)
        if color_space in ("YCbCr", "Gray", "RGB"):
            pixels: Pixels = simplejpeg.decode_jpeg(payload, "RGB")
            return pixels
    return _decode_with_pillow(payload, max_pixels)


def _decode_with_pillow(payload: memoryview | bytes, max_pixels: int) -> Pixels:
    try:
        with Image.open(io.BytesIO(payload), formats=_PILLOW_FORMATS) as image:
            _check_size(image.height, image.width, max_pixels)
            if image.mode.startswith("I"):  # 16-bit grey: convert("RGB") would clip it to white
                grey = (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
            return np.array(image.convert("RGB"))
    except UnidentifiedImageError:
        raise ValueError("not a JPEG, PNG or WebP image") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow raises SyntaxError for broken PNGs
        raise ValueError(f"broken image: {error}") from None


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise ValueError(f"{width} x {height} pixels are more than data.max_image_pixels = {max_pixels}")
