"""Random access to the samples of a split: sample id -> encoded image and label, through mmap. Decodes nothing."""

from __future__ import annotations

import mmap
import threading
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from megabatch.data.dataset import Shard, Split
from megabatch.data.errors import DataError
from megabatch.data.tar_index import SampleTable, read_index, sample_table

MAX_OPEN_SHARDS = 512  # an open shard costs address space and its table, not a file descriptor


@dataclass(frozen=True)
class EncodedSample:
    """One sample as it stands in the shard; `shard` is its path, `image` a view into the file."""

    shard: str
    key: str
    image: memoryview
    label: int


@dataclass(frozen=True)
class _OpenShard:
    table: SampleTable
    content: memoryview


class SplitReader:
    """Reads samples of one split by id, from any thread. Shards are opened when first touched."""

    def __init__(self, folder: Path, split: Split):
        self.folder = folder
        self.split = split
        self._first_ids = list(accumulate((shard.samples for shard in split.shards), initial=0))
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def samples(self) -> int:
        """Return the number of samples in the split."""
        return self._first_ids[-1]

    def read(self, sample_id: int) -> EncodedSample:
        """Return sample `sample_id`. Raises DataError naming the shard."""
        number = bisect_right(self._first_ids, sample_id) - 1
        opened = self._shard(number)
        row = sample_id - self._first_ids[number]
        table = opened.table
        start, size = int(table.image_offset[row]), int(table.image_size[row])
        label_start, label_size = int(table.label_offset[row]), int(table.label_size[row])
        label_text = bytes(opened.content[label_start : label_start + label_size])
        shard = str(self.folder / self.split.shards[number].file)
        try:
            label = int(label_text)
        except ValueError:
            raise DataError(f"{shard}: {table.keys[row]}.cls: {label_text[:40]!r} is no integer") from None
        return EncodedSample(shard, table.keys[row], opened.content[start : start + size], label)

    def _shard(self, number: int) -> _OpenShard:
        with self._lock:
            if number not in self._open:
                self._open[number] = _open_shard(self.folder, self.split.shards[number])
                if len(self._open) > MAX_OPEN_SHARDS:
                    self._open.popitem(last=False)  # unmapped once no view of it is left
            self._open.move_to_end(number)
            return self._open[number]


def _open_shard(folder: Path, shard: Shard) -> _OpenShard:
    path = folder / shard.file
    try:
        with path.open("rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be opened: {error}. Was it moved? `megabatch data verify {folder}` tells"
        ) from None
    if len(content) != shard.bytes:
        raise DataError(
            f"{path}: {len(content):,} bytes, but dataset.json recorded {shard.bytes:,}: the shard was cut or changed. "
            f"Copy it again, or index it anew with `megabatch data index {folder}`"
        )
    table = sample_table(read_index(path.with_suffix(".idx")), str(path))
    if len(table.keys) != shard.samples:
        raise DataError(
            f"{path.with_suffix('.idx')}: {len(table.keys)} samples, but dataset.json recorded {shard.samples}"
        )
    return _OpenShard(table, content)
