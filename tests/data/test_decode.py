"""Pixels from JPEG, PNG and WebP in every mode people have, and nothing from anything else."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from megabatch.data.decode import decode_image

MILLION = 1_000_000


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(height: int = 40, width: int = 50) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([rows * 4, columns * 4, rows + columns], axis=2).astype(np.uint8))


def test_a_jpeg_has_the_pixels_that_pillow_decodes() -> None:
    payload = encoded(photo(), "JPEG", quality=90, subsampling=0)
    expected = np.array(Image.open(io.BytesIO(payload)))
    difference = np.abs(decode_image(payload, MILLION).astype(int) - expected)
    assert difference.max() <= 2  # two builds of libjpeg-turbo round differently


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_lossless_files_come_back_exactly(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(decode_image(encoded(photo(), kind, **options), MILLION), np.array(photo()))


@pytest.mark.parametrize(("kind", "colours"), [("BMP", "RGB"), ("TIFF", "RGB"), ("GIF", "P"), ("TIFF", "L")])
def test_further_formats_come_back_as_pillow_has_them(kind: str, colours: str) -> None:
    image = photo().convert(colours)
    assert np.array_equal(decode_image(encoded(image, kind), MILLION), np.array(image.convert("RGB")))


def test_an_animation_gives_its_first_picture() -> None:
    payload = encoded(photo().convert("P"), "GIF", save_all=True, append_images=[photo().rotate(90).convert("P")])
    assert np.array_equal(decode_image(payload, MILLION), np.array(photo().convert("P").convert("RGB")))


def test_pixels_without_a_range_are_refused() -> None:
    with pytest.raises(ValueError, match="floating-point pixels"):
        decode_image(encoded(photo().convert("F"), "TIFF"), MILLION)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "LA", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    pixels = decode_image(encoded(photo().convert(mode), kind), MILLION)
    assert pixels.shape == (40, 50, 3)
    assert pixels.dtype == np.uint8


def test_a_grey_jpeg_has_three_equal_channels() -> None:
    pixels = decode_image(encoded(photo().convert("L"), "JPEG"), MILLION)
    assert np.array_equal(pixels[:, :, 0], pixels[:, :, 2])


def test_sixteen_bit_grey_keeps_its_shades() -> None:
    shades = np.linspace(0, 65535, 50).astype(np.uint16)[None].repeat(4, axis=0)
    pixels = decode_image(encoded(Image.fromarray(shades), "PNG"), MILLION)
    assert pixels[0, 0, 0] == 0
    assert pixels[0, -1, 0] == 255
    assert len(np.unique(pixels)) == 50


def test_the_size_is_checked_before_the_pixels_are_decoded() -> None:
    for kind in ("JPEG", "PNG"):
        with pytest.raises(ValueError, match=r"50 x 40 pixels are more than data.max_image_pixels = 1999"):
            decode_image(encoded(photo(), kind), 1999)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_cut_image_is_an_error_not_a_grey_one(kind: str) -> None:
    payload = encoded(photo(200, 300), kind)
    with pytest.raises(ValueError, match=r".+"):
        decode_image(payload[: len(payload) // 2], MILLION)


@pytest.mark.parametrize(
    "payload", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50), bytes(600)]
)
def test_anything_else_is_refused_without_being_opened(payload: bytes) -> None:
    with pytest.raises(ValueError, match="not a JPEG, PNG, WebP, BMP, GIF or TIFF image"):
        decode_image(payload, MILLION)


def png_of_one_bit(height: int, width: int, rows_there: int) -> bytes:
    """Write a black image, a row as small as it can be."""
    rows = zlib.compress((b"\0" + bytes(-(-width // 8))) * rows_there, 1)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def test_an_image_of_one_pixel_is_one() -> None:
    assert decode_image(encoded(photo(1, 1), "PNG"), MILLION).shape == (1, 1, 3)
    assert decode_image(encoded(photo(1, 1), "JPEG"), MILLION).shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("payload", "seen"),
    [
        (png_of_one_bit(13_300, 13_300, 13_300), "13300 x 13300"),
        (png_of_one_bit(60_000, 60_000, 1), "60000 x 60000"),
        (
            b"\xff\xd8\xff\xc0\x00\x11\x08\xea\x60\xea\x60\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01\xff\xd9",
            "60000 x 60000|JPEG",
        ),
    ],
    ids=["13,300 pixels squared", "a PNG header of 60,000", "a JPEG header of 60,000"],
)
def test_a_bomb_is_told_by_its_size_and_takes_no_memory(payload: bytes, seen: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=seen):
            decode_image(payload, 100_000_000)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(payload) + 1_000_000
    finally:
        tracemalloc.stop()
