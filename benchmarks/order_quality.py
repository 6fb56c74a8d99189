"""How well an epoch is shuffled: ours, with several settings, beside a perfect shuffle and webdataset's buffer.

python benchmarks/order_quality.py

Every order is one of sample ids, nothing is read. webdataset is its own shuffle over the ids of shards in random
order, as `WebDataset(urls, shardshuffle=N).shuffle(1000)` does it; with 8 readers, each has every eighth shard and
gives an eighth of each batch.

correlation   of the position in the epoch with the number of the shard and with the id, 0 for a perfect shuffle
              (the mean of the absolute values)
neighbours    mean distance of the ids of two draws side by side, relative to a perfect shuffle
shards        how many different shards a batch of 256 comes from
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import webdataset
from numpy.typing import NDArray

from megabatch.data.hashing import key, permutation
from megabatch.data.order import Layout

SHARD_SAMPLES = 1000
SIZES = {128: 8, 1280: 2}  # shards: epochs to take the mean of
BATCH = 256
BUFFER = 1000
Ids = NDArray[np.int64]
EpochIds = Callable[[int], Ids]


def perfect(num_shards: int) -> EpochIds:
    """Return permutations of all samples, by epoch."""
    return lambda epoch: permutation(key(0, epoch), num_shards * SHARD_SAMPLES)


def ours(num_shards: int, streams: int, window_shards: int, block_samples: int) -> EpochIds:
    """Return the order of a layout, by epoch."""
    layout = Layout((SHARD_SAMPLES,) * num_shards, 0, streams, window_shards, block_samples)
    return lambda epoch: layout.draws(epoch, 0, layout.samples).sample_ids


def buffered(num_shards: int, readers: int) -> EpochIds:
    """Return webdataset's order, by epoch: shuffled shards given to the readers in turn, then a buffer in each."""

    def samples(shards: list[int]) -> Iterator[int]:
        return (shard * SHARD_SAMPLES + number for shard in shards for number in range(SHARD_SAMPLES))

    def order(epoch: int) -> Ids:
        shards = list(range(num_shards))
        random.Random(epoch).shuffle(shards)
        read = []
        for reader in range(readers):
            shuffle = webdataset.shuffle(BUFFER, rng=random.Random(1000 * epoch + reader))
            read.append(np.fromiter(shuffle(samples(shards[reader::readers])), np.int64))
        return np.stack(read).reshape(readers, -1, BATCH // readers).swapaxes(0, 1).reshape(-1)

    return order


def figures(order: EpochIds, samples: int, epochs: int) -> tuple[float, float, float, float]:
    """Return the four columns, means over the epochs."""
    rows = []
    positions = np.arange(samples)
    for epoch in range(epochs):
        ids = order(epoch)
        assert len(np.unique(ids)) == samples
        shards = ids // SHARD_SAMPLES
        batches = shards.reshape(-1, BATCH)
        rows.append((
            abs(np.corrcoef(positions, shards)[0, 1]),
            abs(np.corrcoef(positions, ids)[0, 1]),
            np.abs(np.diff(ids)).mean() / (samples / 3),  # the mean distance of two random ids is a third
            np.mean([len(np.unique(batch)) for batch in batches]),
        ))  # fmt: skip
    first, second, third, fourth = np.mean(rows, axis=0).tolist()
    return first, second, third, fourth


def main() -> None:
    """Print a table for each size."""
    for shards, epochs in SIZES.items():
        print(f"{shards} shards of {SHARD_SAMPLES}, batch {BATCH}, mean of {epochs} epochs")
        print(f"{'':50} corr. shard  corr. id  neighbours  shards/batch")
        for name, order in {
            "perfect shuffle": perfect(shards),
            "ours: 64 streams, window 16, block 64": ours(shards, 64, 16, 64),
            "ours: 64 streams, window 16, block 16 (default)": ours(shards, 64, 16, 16),
            "ours: 8 streams, window 16, block 64": ours(shards, 8, 16, 64),
            "ours: 8 streams, window 4, block 16": ours(shards, 8, 4, 16),
            "ours: 1 stream, window 16": ours(shards, 1, 16, 64),
            "webdataset: buffer 1000, 1 reader": buffered(shards, 1),
            "webdataset: buffer 1000, 8 readers": buffered(shards, 8),
        }.items():
            shard, sample, neighbours, in_batch = figures(order, shards * SHARD_SAMPLES, epochs)
            print(f"{name:50} {shard:11.4f} {sample:9.4f} {neighbours:11.3f} {in_batch:13.1f}")


if __name__ == "__main__":
    main()
