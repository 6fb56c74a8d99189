"""The index of a plain .tar shard: where every member of every sample lies. Reads headers, never payloads.

tarfile, like every streaming reader, ends silently at a damaged header and so loses the rest of a shard. Here a shard
is whole only if its last member is followed by the end-of-archive marker and nothing else. The index is kept beside
the shard as text, in the format of NVIDIA DALI's wds2idx ("v1.2").
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megabatch.data.errors import DataError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
LABEL_EXTENSION = "cls"
_VERSION = "v1.2"
_BLOCK_BYTES = 512
_FIELDS = 4  # extension, offset, size, name


@dataclass(frozen=True)
class Member:
    """One file of a sample; `offset` is where its payload begins in the shard, in bytes."""

    extension: str
    offset: int
    size: int
    name: str


@dataclass(frozen=True)
class Sample:
    """Members that stand side by side and share a name up to its first dot."""

    key: str
    members: tuple[Member, ...]


@dataclass(frozen=True)
class SampleTable:
    """Where the image and the label of each sample lie: arrays of shape (samples,), int64, in bytes."""

    keys: tuple[str, ...]
    image_offset: NDArray[np.int64]
    image_size: NDArray[np.int64]
    label_offset: NDArray[np.int64]
    label_size: NDArray[np.int64]


def index_tar(path: Path) -> tuple[Sample, ...]:
    """Read all headers of a shard. Raises DataError naming the byte where the shard is not as a shard must be."""
    try:
        with path.open("rb") as file:
            samples = tuple(_grouped(path, _members(path, file)))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    seen: set[str] = set()
    for sample in samples:
        if sample.key in seen:
            raise DataError(
                f"{path}: byte {sample.members[0].offset}: sample {sample.key} comes twice, or its members are not "
                "side by side: write the members of a sample one after the other (tar --sort=name)"
            )
        seen.add(sample.key)
    return samples


def _members(path: Path, file: object) -> Iterator[Member]:
    size = path.stat().st_size
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="strict") as tar:  # type: ignore[call-overload]
            for info in tar:
                end = info.offset_data + -(-info.size // _BLOCK_BYTES) * _BLOCK_BYTES
                if info.offset_data + info.size > size:
                    raise DataError(
                        f"{path}: byte {info.offset_data}: {info.name} should have {info.size:,} bytes, but the file "
                        f"ends at {size:,}: it was cut. Copy it again"
                    )
                if info.isdir():
                    end = info.offset_data
                    continue
                yield _member(path, info)
    except (tarfile.TarError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: byte {end}: not a plain tar file ({error}). Compressed shards must be unpacked"
        ) from None
    _require_end_marker(path, end, size)


def _member(path: Path, info: tarfile.TarInfo) -> Member:
    where = f"{path}: byte {info.offset}"
    if not info.isreg():
        raise DataError(
            f"{where}: {info.name} is a link or device, not a file: pack the file itself (tar --dereference)"
        )
    if info.name.startswith("/") or ".." in info.name.split("/") or any(c.isspace() or c == "\0" for c in info.name):
        raise DataError(f"{where}: {info.name!r}: names must be relative, without '..' and without spaces")
    _, _, base = info.name.rpartition("/")
    stem, _, extension = base.partition(".")
    if not stem or not extension:
        raise DataError(f"{where}: {info.name}: a member needs a name and an extension, as in 0001.jpg and 0001.cls")
    return Member(extension.lower(), info.offset_data, info.size, info.name)


def _require_end_marker(path: Path, end: int, size: int) -> None:
    """After the last member: at least two blocks of zeros, and nothing but zeros."""
    with path.open("rb") as file:
        file.seek(end)
        position = end
        while chunk := file.read(1 << 20):
            if chunk.strip(b"\0"):
                first = position + len(chunk) - len(chunk.lstrip(b"\0"))
                raise DataError(
                    f"{path}: byte {end}: no tar header, yet data follows at byte {first}: the shard is damaged and "
                    "every reader would silently lose the rest. Copy it again"
                )
            position += len(chunk)
    if size - end < 2 * _BLOCK_BYTES:
        raise DataError(f"{path}: byte {size}: the end-of-archive marker is missing: the shard was cut. Copy it again")


def _grouped(path: Path, members: Iterator[Member]) -> Iterator[Sample]:
    key = ""
    group: list[Member] = []
    for member in members:
        found = sample_key(member.name)
        if found != key and group:
            yield Sample(key, tuple(group))
            group = []
        if any(member.extension == other.extension for other in group):
            raise DataError(f"{path}: byte {member.offset}: sample {found} has two .{member.extension} members")
        key = found
        group.append(member)
    if group:
        yield Sample(key, tuple(group))


def sample_key(name: str) -> str:
    """Return a member's name up to the first dot after the last slash, as webdataset does.

    >>> sample_key("n01440764/a.seg.png")
    'n01440764/a'
    """
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def write_index(samples: tuple[Sample, ...], path: Path) -> None:
    """Write the .idx file: `v1.2 SAMPLES`, then `extension offset size name ...` for each sample."""
    lines = [f"{_VERSION} {len(samples)}"]
    for sample in samples:
        lines.append(" ".join(f"{m.extension} {m.offset} {m.size} {m.name}" for m in sample.members))
    hidden = path.with_name(f".{path.name}.{os.getpid()}")
    hidden.write_text("\n".join(lines) + "\n", encoding="utf-8")
    hidden.rename(path)


def read_index(path: Path) -> tuple[Sample, ...]:
    """Read an .idx file. Raises DataError if it is missing or damaged."""
    try:
        first, *lines = path.read_text(encoding="utf-8").splitlines()
        version, count = first.split()
        if version != _VERSION or int(count) != len(lines):
            raise ValueError(f"{version} with {len(lines)} of {count} samples")
        return tuple(_parse_line(line) for line in lines)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: not a whole index ({error}). Make it again with `megabatch data index {path.parent}`"
        ) from None


def _parse_line(line: str) -> Sample:
    words = line.split(" ")
    if len(words) % _FIELDS or not words[0]:
        raise ValueError(f"{len(words)} fields in a line")
    members = tuple(
        Member(words[i], int(words[i + 1]), int(words[i + 2]), words[i + 3]) for i in range(0, len(words), _FIELDS)
    )
    return Sample(sample_key(members[0].name), members)


def sample_table(samples: tuple[Sample, ...], shard: str) -> SampleTable:
    """Return the places of images and labels. Raises DataError for a sample without exactly one image and one label."""
    rows = np.empty((len(samples), 4), dtype=np.int64)
    for row, sample in enumerate(samples):
        images = [m for m in sample.members if m.extension in IMAGE_EXTENSIONS]
        labels = [m for m in sample.members if m.extension == LABEL_EXTENSION]
        if len(images) != 1 or len(labels) != 1:
            found = ", ".join(f".{m.extension}" for m in sample.members)
            raise DataError(
                f"{shard}: sample {sample.key} has {found}: needed are one .cls and one image "
                f"({', '.join(IMAGE_EXTENSIONS)})"
            )
        rows[row] = images[0].offset, images[0].size, labels[0].offset, labels[0].size
    return SampleTable(tuple(s.key for s in samples), rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3])
