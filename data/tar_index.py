"""The index of a plain .tar shard: where every member of every sample lies. Reads headers, never payloads.

tarfile, like every streaming reader, ends silently at a damaged header and so loses the rest of a shard. Here a shard
is whole only if its last member is followed by the end-of-archive marker and nothing else. The index is kept beside
the shard as text, in the format of NVIDIA DALI's wds2idx ("v1.2"). Members of any extension are indexed; those that
are no image and no label (a pickle, say) are never opened.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from megabatch.data.errors import DataError
from megabatch.data.formats import EXTENSIONS

IMAGE_EXTENSIONS = EXTENSIONS
LABEL_EXTENSION = "cls"
_VERSION = "v1.2"
_BLOCK_BYTES = 512
_FIELDS = 4  # extension, offset, size, name
_EXTENDED_HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_MAX_EXTENDED_HEADER_BYTES = 1 << 16  # tarfile reads such a header into memory, whatever size it claims
_NOT_IN_A_NAME = re.compile(r"[\s\x00-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # how tarfile hands over bytes that are no UTF-8
_STARTS = {
    b"\x1f\x8b": "gzip data: unpack it with gunzip",
    b"BZh": "bzip2 data: unpack it with bunzip2",
    b"\xfd7zXZ": "xz data: unpack it with unxz",
    b"\x28\xb5\x2f\xfd": "zstd data: unpack it with unzstd",
    b"PK": "a zip: unpack it and use `megabatch data import`",
    b"<": "an HTML or XML page, the trace of a failed download: download the shard again",
    b"version https://git-lfs": "a Git LFS pointer: fetch the shard itself with git lfs pull",
}


class Member(NamedTuple):
    """One file of a sample; `offset` is where its payload begins in the shard, in bytes."""

    extension: str
    offset: int
    size: int
    name: str


class Sample(NamedTuple):
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


class _CheckedHeader(tarfile.TarInfo):
    """A header whose size is checked before tarfile acts on it: a negative one would make it read in a circle."""

    @classmethod
    @override
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _CheckedHeader:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in _EXTENDED_HEADERS and header.size > _MAX_EXTENDED_HEADER_BYTES):
            raise tarfile.ReadError(f"a header claims {header.size:,} bytes")
        return header


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


def _members(path: Path, file: BinaryIO) -> Iterator[Member]:
    size = os.fstat(file.fileno()).st_size
    end = 0
    try:
        with tarfile.open(
            fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape", tarinfo=_CheckedHeader
        ) as tar:
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or it keeps every header of a large shard
                end = _payload_end(path, info, end, size)
                if not info.isdir():
                    yield _member(path, info)
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(_unreadable(path, file, end, str(error))) from None
    _require_end_marker(path, file, end, size)


def _payload_end(path: Path, info: tarfile.TarInfo, previous_end: int, file_size: int) -> int:
    """Return where the next header must be. Raises DataError for a payload that is not all there."""
    where = f"{path}: byte {info.offset}: {info.name!r}"
    if info.issparse():
        raise DataError(f"{where} is a sparse file, whose bytes are not all there: pack it without --sparse")
    if info.size < 0 or info.offset < previous_end:
        raise DataError(f"{where}: the header claims an impossible size ({info.size:,} bytes): copy the shard again")
    if info.isdir():
        return info.offset_data
    if info.offset_data + info.size > file_size:
        raise DataError(
            f"{where} should have {info.size:,} bytes, but the file ends at {file_size:,}: the shard was cut. "
            "Copy it again"
        )
    return info.offset_data + -(-info.size // _BLOCK_BYTES) * _BLOCK_BYTES


def _unreadable(path: Path, file: BinaryIO, end: int, reason: str) -> str:
    size = os.fstat(file.fileno()).st_size
    if end > size:
        return f"{path}: byte {size}: the end-of-archive marker is missing: the shard was cut. Copy it again"
    if end > 0:
        return f"{path}: byte {end}: no readable tar header ({reason}): the shard is damaged. Copy it again"
    file.seek(0)
    head = file.read(_BLOCK_BYTES)
    if not head:
        return f"{path}: byte 0: not a plain tar file but an empty one, the trace of a failed copy: copy it again"
    kind = next((what for start, what in _STARTS.items() if head.lstrip().startswith(start)), "")
    return f"{path}: byte 0: not a plain tar file " + (f"but {kind}" if kind else f"({reason}): pack it again with tar")


def _member(path: Path, info: tarfile.TarInfo) -> Member:
    where = f"{path}: byte {info.offset}: {info.name!r}"
    if not info.isreg():
        raise DataError(f"{where} is a link or device, not a file: pack the file itself (tar --dereference)")
    if _SURROGATE.search(info.name):
        raise DataError(f"{where} is a name that is not UTF-8: rename the file and pack it again")
    if info.name.startswith("/") or ".." in info.name.split("/"):
        raise DataError(f"{where} is a name that leads out of the archive: pack with relative names, without '..'")
    if _NOT_IN_A_NAME.search(info.name):
        raise DataError(
            f"{where} is a name with a space or control character, which end a field of the index: "
            "rename the file (with _ instead, say) and pack it again"
        )
    stem, _, extension = info.name.rpartition("/")[2].partition(".")
    if not stem or not extension:
        raise DataError(f"{where}: a member needs a name and an extension, as in 0001.jpg and 0001.cls: leave it out")
    return Member(extension.lower(), info.offset_data, info.size, info.name)


def _require_end_marker(path: Path, file: BinaryIO, end: int, size: int) -> None:
    """After the last member: at least two blocks of zeros, and nothing but zeros."""
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
            raise DataError(
                f"{path}: byte {member.offset}: sample {found} has two .{member.extension} members: keep one of them"
            )
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
        first, *lines = path.read_text(encoding="utf-8").split("\n")
        version, count = first.split()
        if version != _VERSION or not lines or lines.pop() or int(count) != len(lines):
            raise ValueError(f"{version} with {len(lines):,} of {count} samples")
        samples = tuple(map(_parse_line, lines))
        _require_room_for_headers([member for sample in samples for member in sample.members])
        return samples
    except (OSError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path}: not a whole index ({error}). Make it again with `megabatch data index {path.parent}`"
        ) from None


def _parse_line(line: str) -> Sample:
    words = line.split(" ")
    if len(words) % _FIELDS:
        raise ValueError(f"{len(words)} fields in a line, no multiple of {_FIELDS}")
    members = tuple(map(Member, words[::4], map(int, words[1::4]), map(int, words[2::4]), words[3::4]))
    key = sample_key(members[0].name)
    for member in members:
        if not member.name.startswith(f"{key}."):
            raise ValueError(f"{member.name} in the line of sample {key}")
    return Sample(key, members)


def _require_room_for_headers(members: list[Member]) -> None:
    """Payloads begin at blocks, in order, with a header before each: a wrong digit hardly ever keeps to that."""
    offsets = np.fromiter((member.offset for member in members), np.int64, len(members))
    sizes = np.fromiter((member.size for member in members), np.int64, len(members))
    ends = np.concatenate([[0], offsets + -(-sizes // _BLOCK_BYTES) * _BLOCK_BYTES])[:-1]
    wrong = np.flatnonzero((offsets % _BLOCK_BYTES != 0) | (sizes < 0) | (offsets - ends < _BLOCK_BYTES))
    if len(wrong):
        member = members[wrong[0]]
        raise ValueError(f"{member.name} cannot lie at byte {member.offset} with {member.size} bytes")


def sample_table(samples: tuple[Sample, ...], shard: str) -> SampleTable:
    """Return the places of images and labels. Raises DataError for a sample without exactly one image and one label."""
    rows = np.empty((len(samples), 4), dtype=np.int64)
    for row, sample in enumerate(samples):
        images = [m for m in sample.members if m.extension in IMAGE_EXTENSIONS]
        labels = [m for m in sample.members if m.extension == LABEL_EXTENSION]
        if len(images) != 1 or len(labels) != 1 or not images[0].size:
            found = ", ".join(f".{m.extension} of {m.size:,} bytes" for m in sample.members)
            raise DataError(
                f"{shard}: byte {sample.members[0].offset}: sample {sample.key} has {found}: needed are one .cls and "
                f"one image ({', '.join(IMAGE_EXTENSIONS)}). Correct the sample, or leave it out, and pack again"
            )
        rows[row] = images[0].offset, images[0].size, labels[0].offset, labels[0].size
    return SampleTable(tuple(s.key for s in samples), rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3])
