"""Random access to the samples of a split: sample id -> encoded image and label. Decodes nothing.

Shards on this machine are mapped into memory. Shards of a URL are read from the cache of the node, which may remove
one between two reads (data/sources/cache.py), so of those only the index is kept.
"""

from __future__ import annotations

import mmap
import os
import re
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from megabatch.data.dataset import Shard, Split
from megabatch.data.errors import DataError, SampleError, SkippedSample, open_files_advice
from megabatch.data.sources.places import is_remote, visible
from megabatch.data.tar_headers import BLOCK_BYTES, is_header_of
from megabatch.data.tar_index import LABEL_EXTENSION, Member, Sample, SampleTable, read_index, sample_table
from megabatch.data.targets import TargetReader

_LABEL = re.compile(rb"\s*([0-9]{1,18})\s*")  # int() would take 1_0 and -1 as well
NO_LABEL = -1
MAX_OPEN_SHARDS = 512  # an open shard costs its table, address space and a file descriptor


@dataclass(frozen=True)
class EncodedSample:
    """One sample as it stands in the shard; `shard` is its path or URL, `image` a view into the file or a copy.

    `values` is a target that is no class (data/targets.py), float32 of shape (outputs,); `label` is then NO_LABEL, as
    it is where a class was asked for and the shard has none.
    """

    shard: str
    key: str
    image: memoryview
    label: int
    offset: int | None = None  # where the image begins in the shard; None in a stream
    values: NDArray[np.float32] | None = field(default=None, compare=False)

    @property
    def where(self) -> str:
        """Return the place of the sample, as messages begin."""
        byte = "" if self.offset is None else f"byte {self.offset}: "
        return f"{self.shard}: {byte}sample {self.key}"


class Reader(Protocol):
    """Random access to samples, from any thread."""

    @property
    def samples(self) -> int:
        """Return the number of samples."""

    def read(self, sample_id: int) -> EncodedSample:
        """Return a sample. Raises DataError naming its shard."""

    @property
    def is_remote(self) -> bool:
        """Return whether samples may lie elsewhere, so that `prefetch` is worth calling."""

    def prefetch(self, sample_ids: Iterable[int]) -> None:
        """Begin to load what the first of these samples lie in; return at once."""


@dataclass(frozen=True)
class _OpenShard:
    shown: str
    table: SampleTable
    content: memoryview | None  # None: in the cache


class SplitReader:
    """Reads samples of one split by id, from any thread. Shards are opened when first touched."""

    def __init__(self, folder: Path, split: Split, target: TargetReader | None = None):
        """Take a split of a folder; `target` reads what is no class. Opens nothing."""
        self.folder = folder
        self.split = split
        self._target = target
        self._extension = LABEL_EXTENSION if target is None else target.extension
        self._first_ids = list(accumulate((shard.samples for shard in split.shards), initial=0))
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
        self._lock = threading.Lock()
        self._opening: dict[int, threading.Lock] = {}

    @property
    def samples(self) -> int:
        """Return the number of samples in the split."""
        return self._first_ids[-1]

    def read(self, sample_id: int) -> EncodedSample:
        """Return sample `sample_id`. Raises DataError naming the shard."""
        number = bisect_right(self._first_ids, sample_id) - 1
        shard = self.split.shards[number]
        opened = self._shard(number)
        row = sample_id - self._first_ids[number]
        table = opened.table
        image_at, image_size = int(table.image_offset[row]), int(table.image_size[row])
        label_at, label_size = int(table.label_offset[row]), int(table.label_size[row])
        if opened.content is not None:  # what is in the cache was compared with its checksum
            header = bytes(opened.content[image_at - BLOCK_BYTES : image_at])
            if not is_header_of(header, table.keys[row], image_size):
                raise DataError(
                    f"{opened.shown}: byte {image_at - BLOCK_BYTES}: no longer the header of sample {table.keys[row]}: "
                    "the shard was changed after it was indexed. Copy it again, or index it anew with "
                    f"`megabatch data index {self.folder}`"
                )
        image, text = self._payloads(shard, opened, (image_at, image_size), (label_at, label_size))
        try:
            label, values = self._read_target(bytes(text) if label_size else None)
        except ValueError as error:
            where = f"{opened.shown}: byte {label_at or image_at}: {table.keys[row]}.{self._extension}"
            message = f"{where}: {error}"
            raise SampleError(SkippedSample("label", opened.shown, table.keys[row], sample_id, message)) from None
        return EncodedSample(opened.shown, table.keys[row], image, label, image_at, values)

    def _read_target(self, text: bytes | None) -> tuple[int, NDArray[np.float32] | None]:
        """Return the class, or the values of another target. Raises ValueError with the reason."""
        if self._target is not None:
            if text is None:
                raise ValueError("is missing or empty: data.target is read from it")
            return NO_LABEL, self._target.parse(text)
        if text is None:
            return NO_LABEL, None
        label = _LABEL.fullmatch(text)
        if label is None:
            raise ValueError(f"{text[:40]!r} is no integer from 0 up")
        return int(label[1]), None

    def samples_of(self, number: int) -> tuple[Sample, ...]:
        """Return the samples of shard `number` with all members, read from its index. Raises DataError."""
        shard = self.split.shards[number]
        if is_remote(shard.url):
            assert self.split.cache is not None
            return self.split.cache.samples(shard)
        return read_index((self.folder / shard.file).with_suffix(".idx"))

    def payloads(self, number: int, members: Sequence[Member]) -> list[bytes]:
        """Return the bytes of members of shard `number`. Raises DataError naming the shard."""
        spans = [(member.offset, member.size) for member in members]
        return [bytes(part) for part in self._payloads(self.split.shards[number], self._shard(number), *spans)]

    @property
    def is_remote(self) -> bool:
        """Return whether some of the shards are loaded from elsewhere."""
        return self.split.cache is not None

    def prefetch(self, sample_ids: Iterable[int]) -> None:
        """Begin to load the shards of samples that will be read soon, if they lie elsewhere; return at once."""
        if self.split.cache is not None:
            numbers = dict.fromkeys(bisect_right(self._first_ids, sample_id) - 1 for sample_id in sample_ids)
            shards = (self.split.shards[number] for number in numbers)
            self.split.cache.prefetch(shard for shard in shards if is_remote(shard.url))

    def _payloads(self, shard: Shard, opened: _OpenShard, *spans: tuple[int, int]) -> list[memoryview]:
        if opened.content is not None:
            return [opened.content[start : start + size] for start, size in spans]
        assert self.split.cache is not None
        with self.split.cache.opened(shard) as file:
            return [memoryview(os.pread(file, size, start)) for start, size in spans]

    def _shard(self, number: int) -> _OpenShard:
        opened = self._found(number)
        if opened is not None:
            return opened
        with self._lock:
            opening = self._opening.setdefault(number, threading.Lock())
        with opening:  # a lock for each shard: one that has to be loaded first holds up nobody else
            opened = self._found(number)
            if opened is None:
                opened = self._opened(self.split.shards[number])
                self._keep(number, opened)
        return opened

    def _found(self, number: int) -> _OpenShard | None:
        with self._lock:
            if number in self._open:
                self._open.move_to_end(number)
            return self._open.get(number)

    def _keep(self, number: int, opened: _OpenShard) -> None:
        with self._lock:
            self._open[number] = opened
            self._opening.pop(number, None)
            if len(self._open) > MAX_OPEN_SHARDS:
                self._open.popitem(last=False)  # unmapped once no view of it is left

    def _opened(self, shard: Shard) -> _OpenShard:
        if not is_remote(shard.url):
            return _open_shard(self.folder, shard, self._extension)
        assert self.split.cache is not None, "a shard of a URL without a cache"
        return _OpenShard(visible(shard.url), self.split.cache.table(shard, self._extension), None)


def _open_shard(folder: Path, shard: Shard, extension: str) -> _OpenShard:
    path = Path(shard.location(folder))
    index = (folder / shard.file).with_suffix(".idx")
    try:
        with path.open("rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        advice = isinstance(error, OSError) and open_files_advice(error)
        advice = advice or f"Was it moved? `megabatch data verify {folder}` tells"
        raise DataError(f"{path}: cannot be opened: {error}. {advice}") from None
    if len(content) != shard.bytes:
        raise DataError(
            f"{path}: {len(content):,} bytes, but dataset.json recorded {shard.bytes:,}: the shard was cut or changed. "
            f"Copy it again, or index it anew with `megabatch data index {folder}`"
        )
    table = sample_table(read_index(index), str(path), extension)
    if len(table.keys) != shard.samples:
        raise DataError(f"{index}: {len(table.keys)} samples, but dataset.json recorded {shard.samples}")
    return _OpenShard(str(path), table, content)
