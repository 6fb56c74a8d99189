"""One sample looked at: what is wrong with its image and label, and the few numbers that are kept of it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from megabatch.data.clean.perceptual_hash import WORDS, perceptual_hash
from megabatch.data.decode import Pixels, decode_image
from megabatch.data.formats import FORMATS, NAMES
from megabatch.data.tar_index import IMAGE_EXTENSIONS, LABEL_EXTENSION, Member, Sample

Problem = tuple[str, str]  # name of the kind, value
Row = NDArray[np.void]
NO_LABEL = -1
ROW = np.dtype([
    ("shard", "<i4"),
    ("offset", "<i8"),  # of the image in the shard, in bytes
    ("size", "<i8"),
    ("label", "<i8"),  # NO_LABEL without a usable one
    ("payload", "<u8", 2),  # SHA-256 of the stored bytes, cut to 128 bits
    ("pixels", "<u8", 2),  # the same of the decoded pixels; of the bytes if they do not decode
    ("decoded", "?"),
    ("width", "<i4"),
    ("height", "<i4"),
    ("mean", "<f4"),  # of the grey levels, 0 to 255
    ("deviation", "<f4"),
    ("hash", "<u8", WORDS),
])  # fmt: skip
_SAME_EXTENSION = {"jpeg": "jpg", "tiff": "tif"}
_CONTENTS = (
    (0, b"\xff\xd8\xff", "jpg"),
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (8, b"WEBP", "webp"),
    (0, b"GIF8", "gif"),
    (0, b"BM", "bmp"),
    (0, b"II*\0", "tif"),
    (0, b"MM\0*", "tif"),
    (4, b"ftypavif", "avif"),
    (4, b"ftyphei", "heic"),
    (0, b"%PDF", "pdf"),
    (0, b"<", "html or xml"),
)
_TAIL_BYTES = 64


def inspect(sample: Sample, content: memoryview, num_classes: int | None, max_pixels: int) -> tuple[Row, list[Problem]]:
    """Look at one sample of a shard's `content`. Without `num_classes` every label from 0 on is accepted."""
    row = np.zeros((), dtype=ROW)
    label, problems = _label(sample, content, num_classes)
    row["label"] = label
    images = [member for member in sample.members if member.extension in IMAGE_EXTENSIONS]
    if len(images) != 1 or not images[0].size:
        found = ", ".join(f".{member.extension} of {member.size:,} bytes" for member in sample.members)
        return row, [*problems, ("image_missing", f"the sample has {found}")]
    row["offset"], row["size"] = images[0].offset, images[0].size
    return row, [*problems, *_image(images[0], payload_of(images[0], content), row, max_pixels)]


def payload_of(member: Member, content: memoryview) -> memoryview:
    """Return the bytes of a member."""
    return content[member.offset : member.offset + member.size]


def _label(sample: Sample, content: memoryview, num_classes: int | None) -> tuple[int, list[Problem]]:
    members = [member for member in sample.members if member.extension == LABEL_EXTENSION]
    if not members:
        return NO_LABEL, [("label_missing", f"the sample has {', '.join(f'.{m.extension}' for m in sample.members)}")]
    text = bytes(payload_of(members[0], content))
    try:
        label = int(text)
    except ValueError:
        return NO_LABEL, [("label_not_integer", repr(text[:40])[1:])]
    if label < 0 or label >= (1 << 63 if num_classes is None else num_classes):
        return NO_LABEL, [("label_outside", f"{str(label)[:40]}; the classes are 0 to {(num_classes or 1 << 63) - 1}")]
    return label, []


def _image(member: Member, payload: memoryview, row: Row, max_pixels: int) -> Iterator[Problem]:
    """Fill the row's fields of the image, and yield what is wrong with it."""
    row["payload"] = row["pixels"] = _digest(payload)
    content = content_kind(payload)
    if content is not None and content != _SAME_EXTENSION.get(member.extension, member.extension):
        yield "wrong_extension", f"{content}, called .{member.extension}"
    try:
        width, height = _size(payload)
        row["width"], row["height"] = width, height
        if width * height > max_pixels:
            yield "huge", f"{width:,} x {height:,} pixels, at most {max_pixels:,} are allowed"
            return
        pixels = decode_image(payload, max_pixels)
    except Image.DecompressionBombError as error:
        yield "huge", str(error)
    except Exception as error:  # Pillow's readers raise many kinds; one image must not end the look at the others
        cut = is_cut(payload) or "remature end" in str(error) or "truncated" in str(error)
        yield ("truncated" if cut else "unreadable"), f"{content or 'unknown content'}: {error}"
    else:
        _measure(pixels, row)


def _measure(pixels: Pixels, row: Row) -> None:
    row["decoded"] = True
    row["pixels"] = _digest(np.array(pixels.shape, dtype="<i8").tobytes(), np.ascontiguousarray(pixels).data)
    row["height"], row["width"] = pixels.shape[:2]
    grey = Image.fromarray(pixels).convert("L")
    counts, levels = np.array(grey.histogram(), dtype=np.float64), np.arange(256)
    mean = counts @ levels / counts.sum()
    row["mean"], row["deviation"] = mean, np.sqrt(counts @ (levels - mean) ** 2 / counts.sum())
    row["hash"] = perceptual_hash(grey)


def _digest(*parts: bytes | memoryview) -> NDArray[np.uint64]:
    """Return the first 128 bits of the SHA-256 of some bytes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return np.frombuffer(digest.digest()[:16], dtype="<u8")


def content_kind(payload: memoryview | bytes) -> str | None:
    """Return what the first bytes say a file is, as an extension; None if they say nothing."""
    head = bytes(payload[:16])
    return next((kind for start, mark, kind in _CONTENTS if head[start:].startswith(mark)), None)


def is_cut(payload: memoryview | bytes) -> bool:
    """Tell whether a JPEG, PNG or WebP lacks its end: the EOI marker, the IEND chunk, bytes that its header counts."""
    tail = bytes(payload[-_TAIL_BYTES:])
    match content_kind(payload):
        case "jpg":
            return b"\xff\xd9" not in tail
        case "png":
            return b"IEND\xaeB`\x82" not in tail
        case "webp":
            return len(payload) < int.from_bytes(payload[4:8], "little") + 8
    return False


def _size(payload: memoryview) -> tuple[int, int]:
    """Return width and height by the header. Raises ValueError for what is none of the formats that are read."""
    if content_kind(payload) == "jpg":
        height, width, _, _ = simplejpeg.decode_jpeg_header(payload)
        return width, height
    try:
        with Image.open(io.BytesIO(payload), formats=[image_format.name for image_format in FORMATS]) as image:
            return image.size
    except UnidentifiedImageError:
        raise ValueError(f"not a {NAMES} image") from None
