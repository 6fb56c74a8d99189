"""Shards of real photographs, and the ways in which shards are damaged. Shared by tests and benchmarks/damage.py."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from megabatch.data.dataset import Dataset
from megabatch.data.importer import ImportOptions, import_images
from megabatch.data.tar_index import Sample, index_tar

BLOCK = 512
TILE = 64  # pixels
CLASSES = 3


def photo_tiles(count: int) -> list[Image.Image]:
    """Return squares cut from the two photographs that come with scikit-learn."""
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    corners = [(x, y) for y in range(427 - TILE, 0, -TILE) for x in range(0, 640 - TILE, TILE)]  # the sky last
    places = [(photo, corner) for corner in corners for photo in photos]
    return [photo.crop((x, y, x + TILE, y + TILE)) for photo, (x, y) in places[:count]]


def jpeg(image: Image.Image) -> bytes:
    """Encode as people's cameras do: quality 90, chroma at half resolution."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def photo_dataset(folder: Path, samples: int = 30, samples_per_shard: int = 10) -> Dataset:
    """Import tiles of photographs in three classes into folder/data."""
    for number, tile in enumerate(photo_tiles(samples)):
        file = folder / "images" / f"class{number % CLASSES}" / f"{number:04d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(tile))
    options = ImportOptions(samples_per_shard=samples_per_shard)
    return import_images(folder / "images", folder / "data", options, lambda done, total: None).dataset


@dataclass(frozen=True)
class Target:
    """A whole shard, and the sample in its middle that is to be harmed; its label comes first, then its image."""

    raw: bytes
    sample: Sample

    @property
    def header(self) -> int:
        """Return where the sample begins."""
        return self.sample.members[0].offset - BLOCK

    @property
    def image(self) -> tuple[int, int]:
        """Return first byte and size of its image."""
        return self.sample.members[1].offset, self.sample.members[1].size

    def with_bytes(self, position: int, replacement: bytes) -> bytes:
        """Return the shard with some bytes overwritten."""
        return self.raw[:position] + replacement + self.raw[position + len(replacement) :]


def target(shard: Path) -> Target:
    """Return what is to be harmed in a shard."""
    samples = index_tar(shard)
    return Target(shard.read_bytes(), samples[len(samples) // 2])


def _bit_flip(whole: Target) -> bytes:
    start, size = whole.image
    place = start + size * 3 // 4  # behind the tables, among the coefficients
    return whole.with_bytes(place, bytes([whole.raw[place] ^ 0x10]))


def _interleaved(whole: Target) -> bytes:
    """The labels first, then the images: what tar writes of a folder sorted by kind. As long as the original."""
    labels, images, rest = _members(whole.raw)
    return b"".join(labels) + b"".join(images) + rest


def _swapped(whole: Target) -> bytes:
    """Return another shard of the same layout: other keys, and every label that of the next class."""
    labels, images, rest = _members(whole.raw)
    members = []
    for label, image in zip(labels, images, strict=True):
        digit = bytes([ord("0") + (label[BLOCK] - ord("0") + 1) % CLASSES])
        members += [_renamed(label[:BLOCK]) + digit + label[BLOCK + 1 :], _renamed(image[:BLOCK]) + image[BLOCK:]]
    return b"".join(members) + rest


def _members(raw: bytes) -> tuple[list[bytes], list[bytes], bytes]:
    labels, images, position = [], [], 0
    while raw[position]:
        size = int(raw[position + 124 : position + 135], 8)
        end = position + BLOCK + -(-size // BLOCK) * BLOCK
        (labels if size == 1 else images).append(raw[position:end])
        position = end
    return labels, images, raw[position:]


def _renamed(header: bytes) -> bytes:
    return with_checksum(b"k" + header[1:])


def with_checksum(header: bytes) -> bytes:
    """Return a tar header with the checksum it must have."""
    total = sum(header[:148]) + sum(header[156:]) + 8 * ord(" ")
    return header[:148] + b"%06o\0 " % total + header[156:]


def _relabelled(whole: Target) -> bytes:
    place = whole.sample.members[0].offset
    return whole.with_bytes(place, b"0" if whole.raw[place] != ord("0") else b"1")


KINDS: dict[str, Callable[[Target], bytes]] = {
    "garbage header in the middle": lambda whole: whole.with_bytes(whole.header, b"\xaa" * BLOCK),
    "two zeroed blocks in the middle": lambda whole: whole.with_bytes(whole.header, bytes(2 * BLOCK)),
    "cut exactly at a header": lambda whole: whole.raw[: whole.header],
    "cut inside a header": lambda whole: whole.raw[: whole.header + 100],
    "cut between the members of a sample": lambda whole: whole.raw[: whole.header + 2 * BLOCK],
    "cut inside a payload": lambda whole: whole.raw[: whole.image[0] + whole.image[1] // 2],
    "an empty file": lambda whole: b"",
    "a web page instead": lambda whole: b"<!DOCTYPE html><html><body>503 Service Unavailable</body></html>\n" * 20,
    "interleaved members": _interleaved,
    "zeros from a header on": lambda whole: whole.raw[: whole.header].ljust(len(whole.raw), b"\0"),
    "zeros from inside a payload on": lambda whole: whole.raw[: whole.image[0] + 700].ljust(len(whole.raw), b"\0"),
    "nothing but zeros": lambda whole: bytes(len(whole.raw)),
    "something after the end": lambda whole: whole.raw + whole.raw[: 2 * BLOCK],
    "a zeroed payload": lambda whole: whole.with_bytes(whole.image[0], bytes(whole.image[1])),
    "a bit flip in a payload": _bit_flip,
    "a label changed in place": _relabelled,
    "another shard of the same layout": _swapped,
}
