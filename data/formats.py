"""The image formats that are read. A member's bytes decide which one it is, not its name; nothing else is opened."""

from __future__ import annotations

from typing import NamedTuple


class ImageFormat(NamedTuple):
    """A format by Pillow's name for it, with its extensions (the first is written) and how its files begin."""

    name: str
    extensions: tuple[str, ...]
    signatures: tuple[bytes, ...]


FORMATS = (
    ImageFormat("JPEG", ("jpg", "jpeg"), (b"\xff\xd8\xff",)),
    ImageFormat("PNG", ("png",), (b"\x89PNG\r\n\x1a\n",)),
    ImageFormat("WEBP", ("webp",), (b"RIFF",)),
    ImageFormat("BMP", ("bmp",), (b"BM",)),
    ImageFormat("GIF", ("gif",), (b"GIF87a", b"GIF89a")),
    ImageFormat("TIFF", ("tif", "tiff"), (b"II*\0", b"MM\0*")),
)
NAMES = "JPEG, PNG, WebP, BMP, GIF or TIFF"
EXTENSIONS = tuple(extension for image_format in FORMATS for extension in image_format.extensions)
HEAD_BYTES = 12  # enough for format_of


def format_of(payload: bytes | memoryview) -> ImageFormat | None:
    """Return the format that the first bytes announce, or None.

    >>> format_of(b"GIF89a.......").name
    'GIF'
    """
    head = bytes(payload[:HEAD_BYTES])
    for image_format in FORMATS:
        if head.startswith(image_format.signatures):
            riff_of_another_kind = image_format.name == "WEBP" and head[8:12] != b"WEBP"
            return None if riff_of_another_kind else image_format
    return None
