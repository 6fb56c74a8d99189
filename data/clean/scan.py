"""Every sample of a data set looked at once, in parallel, shard by shard. About 250 bytes are kept of each.

Threads, not processes: what takes long (decoding, hashing) runs without Python's lock; docs/cleaning.md has figures.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from megabatch.data.clean.inspect import NO_LABEL, ROW, Problem, inspect
from megabatch.data.clean.kinds import Finding
from megabatch.data.clean.shards import Shards, open_shard, size_of
from megabatch.data.importer import Progress
from megabatch.data.tar_index import Sample, index_tar

_CHUNK_SAMPLES = 64
_CHUNKS_AHEAD = 4  # of each thread


@dataclass(frozen=True)
class Scan:
    """What is known of the samples, numbered in the order of the shards: keys, `rows` of dtype ROW, problems seen."""

    shards: Shards
    keys: list[str]
    rows: NDArray[np.void]
    problems: list[Finding]

    def split_numbers(self) -> NDArray[np.int64]:
        """Return for each sample the number of its split in `shards.splits`: shape (samples,)."""
        splits = self.shards.splits
        of_shard = np.array([splits.index(split) for split, _ in self.shards.files], dtype=np.int64)
        numbers: NDArray[np.int64] = of_shard[self.rows["shard"]]
        return numbers

    def split_of(self, sample: int) -> str:
        """Return the name of a sample's split."""
        return self.shards.files[int(self.rows["shard"][sample])][0]

    def shard_of(self, sample: int) -> str:
        """Return the file name of a sample's shard."""
        return self.shards.files[int(self.rows["shard"][sample])][1]

    def class_of(self, sample: int) -> str:
        """Return the class name of a sample, or its number where there are no names."""
        label = int(self.rows["label"][sample])
        if label == NO_LABEL:
            return "no usable label"
        return str(label) if self.shards.classes is None else self.shards.classes[label]

    def image_of(self, sample: int) -> bytes:
        """Return the stored bytes of a sample's image; empty if it has none."""
        row = self.rows[sample]
        content = open_shard(self.shards.folder / self.shard_of(sample))
        return bytes(content[int(row["offset"]) : int(row["offset"]) + int(row["size"])])


@dataclass(frozen=True)
class _Chunk:
    samples: tuple[Sample, ...]
    rows: NDArray[np.void]
    problems: list[tuple[int, Problem]]  # number in the chunk, what is wrong
    end: int  # bytes of all shards up to here


def scan(shards: Shards, threads: int, max_pixels: int, progress: Progress) -> Scan:
    """Look at every sample. `progress` counts bytes.

    Raises DataError for a shard that is damaged as a file: nothing in it could be trusted.
    """
    keys: list[str] = []
    rows = [np.zeros(0, dtype=ROW)]
    problems: list[Finding] = []
    ends = list(accumulate((size_of(shards.folder / file) for _, file in shards.files), initial=0))
    for chunk in _chunks(shards, ends, threads, max_pixels):
        problems += [Finding(kind, len(keys) + number, value) for number, (kind, value) in chunk.problems]
        keys += [sample.key for sample in chunk.samples]
        rows.append(chunk.rows)
        progress(chunk.end, ends[-1])
    return Scan(shards, keys, np.concatenate(rows), problems)


def _chunks(shards: Shards, starts: list[int], threads: int, max_pixels: int) -> Iterator[_Chunk]:
    """Yield the chunks in order, with a bounded number of them under way."""
    num_classes = None if shards.classes is None else len(shards.classes)

    def look(number: int, content: memoryview, samples: tuple[Sample, ...]) -> _Chunk:
        looked_at = [inspect(sample, content, num_classes, max_pixels) for sample in samples]
        rows = np.array([row for row, _ in looked_at], dtype=ROW)
        rows["shard"] = number
        problems = [(place, problem) for place, (_, seen) in enumerate(looked_at) for problem in seen]
        end = starts[number] + max(member.offset + member.size for member in samples[-1].members)
        return _Chunk(samples, rows, problems, end)

    pending: deque[Future[_Chunk]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for number, (_, file) in enumerate(shards.files):
            samples = index_tar(shards.folder / file)
            content = open_shard(shards.folder / file)
            for start in range(0, len(samples), _CHUNK_SAMPLES):
                pending.append(pool.submit(look, number, content, samples[start : start + _CHUNK_SAMPLES]))
                if len(pending) > threads * _CHUNKS_AHEAD:
                    yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
