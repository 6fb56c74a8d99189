"""The index of a plain .tar shard: where every member of every sample lies. Reads headers, never payloads.

A shard is whole only if every header can be read and the last member is followed by the end-of-archive marker
(data/tar_headers.py). The index is kept beside the shard as text, in the format of NVIDIA DALI's wds2idx ("v1.2").
Members of any extension are indexed, and those that are no image and no label are never opened. Pickles are refused
all the same: other readers of the same shard open them without being asked.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from megabatch.configs.new_file import write_new
from megabatch.data.errors import DataError
from megabatch.data.formats import EXTENSIONS
from megabatch.data.tar_headers import BLOCK_BYTES, Header, TarDamageError, tar_headers

IMAGE_EXTENSIONS = EXTENSIONS
LABEL_EXTENSION = "cls"
TARGET_EXTENSIONS = ("json", "txt", "num")  # members that can have another target (data/targets.py)
# What webdataset 1.0.2 unpickles (pkl, pickle, pyd) or hands to torch's loader with weights_only=False (pth) as soon as
# a sample is decoded, wanted or not, also with .gz after it; and pt, the other name of what torch writes. Not here: npy
# and npz (numpy refuses pickles unless told otherwise), ten, tb, json, msgpack, cbor (plain values).
PICKLE_EXTENSIONS = ("pickle", "pkl", "pt", "pth", "pyd")
_PICKLE = re.compile(rf"(?<![^.])(?:{'|'.join(PICKLE_EXTENSIONS)})(?:\.gz)?$")  # webdataset goes by the last extension
_VERSION = "v1.2"
_FIELDS = 4  # extension, offset, size, name
_NOT_IN_A_NAME = re.compile(r"[\s\x00-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # bytes that are no UTF-8
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
    """Where the image and the label of each sample lie: arrays of shape (samples,), int64, in bytes.

    The label is the member that has the target; its size is 0 where a sample has none.
    """

    keys: tuple[str, ...]
    image_offset: NDArray[np.int64]
    image_size: NDArray[np.int64]
    label_offset: NDArray[np.int64]
    label_size: NDArray[np.int64]


def index_tar(path: Path) -> tuple[Sample, ...]:
    """Read all headers of a shard. Raises DataError naming the byte where the shard is not as a shard must be."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path}: cannot be read: no regular file. Shards must be files, or links to files")
        with path.open("rb") as file:
            samples = tuple(_grouped(path, _members(path, file.fileno())))
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


def _members(path: Path, file: int) -> Iterator[Member]:
    last = None
    try:
        for header in tar_headers(file, os.fstat(file).st_size):
            last = header
            if header.kind != "folder":
                yield _member(path, header)
    except TarDamageError as error:
        if last is None and error.byte == 0:
            raise DataError(f"{path}: byte 0: not a plain tar file {_what_else(file, str(error))}") from None
        after = f", after {last.name!r}" if last else ""
        raise DataError(
            f"{path}: byte {error.byte}{after}: {error}. The shard is damaged, and streaming readers would silently "
            "lose samples: copy it again"
        ) from None


def _what_else(file: int, reason: str) -> str:
    head = os.pread(file, BLOCK_BYTES, 0)
    if not head:
        return "but an empty one, the trace of a failed copy: copy it again"
    kind = next((what for start, what in _STARTS.items() if head.lstrip().startswith(start)), "")
    return f"but {kind}" if kind else f"({reason}): copy it again, or pack it again with tar"


def _member(path: Path, header: Header) -> Member:
    where = f"{path}: byte {header.start}: {header.name!r}"
    if header.kind:
        raise DataError(f"{where} is {header.kind}: pack the file itself (tar --dereference --hard-dereference)")
    if _SURROGATE.search(header.name):
        raise DataError(f"{where} is a name that is not UTF-8: rename the file and pack it again")
    if header.name.startswith("/") or ".." in header.name.split("/"):
        raise DataError(f"{where} is a name that leads out of the archive: pack with relative names, without '..'")
    if _NOT_IN_A_NAME.search(header.name):
        raise DataError(
            f"{where} is a name with a space or control character, which end a field of the index: "
            "rename the file (with _ instead, say) and pack it again"
        )
    stem, _, extension = header.name.rpartition("/")[2].partition(".")
    if not stem or not extension:
        raise DataError(f"{where}: a member needs a name and an extension, as in 0001.jpg and 0001.cls: leave it out")
    extension = extension.lower()
    pickled = _PICKLE.search(extension)
    if pickled:
        written = header.name[-len(pickled[0]) :]
        command = f"tar --delete --wildcards -f {shlex.quote(str(path))} '*.{written}'"
        raise DataError(
            f"{where} is a pickle, which runs code when it is opened, and other readers of this shard open it unasked: "
            f"take all such out with: {command}"
        )
    return Member(extension, header.payload, header.size, header.name)


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
    write_new(hidden, "\n".join(lines) + "\n")
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
    ends = np.concatenate([[0], offsets + -(-sizes // BLOCK_BYTES) * BLOCK_BYTES])[:-1]
    wrong = np.flatnonzero((offsets % BLOCK_BYTES != 0) | (sizes < 0) | (offsets - ends < BLOCK_BYTES))
    if len(wrong):
        member = members[wrong[0]]
        raise ValueError(f"{member.name} cannot lie at byte {member.offset} with {member.size} bytes")


def sample_table(samples: tuple[Sample, ...], shard: str, extension: str = LABEL_EXTENSION) -> SampleTable:
    """Return the places of images and of the members with an extension, the labels.

    Where a sample of the shard has a .cls, all need one, and where none has, another member that may be a target
    (data/targets.py). Raises DataError for a sample without exactly one image and what it needs else.
    """
    rows = np.zeros((len(samples), 4), dtype=np.int64)
    asked_for_class = extension == LABEL_EXTENSION
    has_classes = any(member.extension == LABEL_EXTENSION for sample in samples for member in sample.members)
    needed = (LABEL_EXTENSION,) if has_classes else TARGET_EXTENSIONS
    for row, sample in enumerate(samples):
        images = [m for m in sample.members if m.extension in IMAGE_EXTENSIONS]
        labels = [m for m in sample.members if m.extension == extension]
        lacks_label = asked_for_class and not any(m.extension in needed and m.size for m in sample.members)
        if len(images) != 1 or not images[0].size or lacks_label:
            raise DataError(_unusable(sample, shard, has_classes))
        rows[row, :2] = images[0].offset, images[0].size
        if labels:
            rows[row, 2:] = labels[0].offset, labels[0].size
    return SampleTable(tuple(s.key for s in samples), rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3])


def _unusable(sample: Sample, shard: str, has_classes: bool) -> str:
    found = ", ".join(f".{m.extension} of {m.size:,} bytes" for m in sample.members)
    others = ", ".join(f".{extension}" for extension in TARGET_EXTENSIONS)
    instead = "nothing, as other samples have one" if has_classes else f"{others} with a data.target"
    return (
        f"{shard}: byte {sample.members[0].offset}: sample {sample.key} has {found}: needed are one .cls and "
        f"one image ({', '.join(IMAGE_EXTENSIONS)}); "
        f"instead of a .cls: {instead}. Correct the sample, or leave it out, and pack again"
    )
