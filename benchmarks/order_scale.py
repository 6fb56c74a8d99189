"""The order at a size that nobody has yet: 10^9 samples in 10^6 shards, read by 16,384 ranks on 2,048 nodes.

python benchmarks/order_scale.py

For some ranks, each in a fresh process: how long it takes to make the layout from the counts of the shards, to open an
epoch and to know the samples of the first ten micro-batches; and the memory this takes beyond the imports (the peak).
Then how many shards a node touches in an epoch, worked out from the streams that its ranks read, without walking the
samples. The target is under 2 seconds and 200 MB.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megabatch.data.order import EpochOrder, Layout
from megabatch.data.requests import training_requests
from megabatch.data.steps import Steps

SHARDS, MEAN_SHARD_SAMPLES = 1_000_000, 1000
RANKS, RANKS_PER_NODE = 16_384, 8
MICRO_BATCH = 64
TARGET_SECONDS, TARGET_MEGABYTES = 2.0, 200
MEASURED_RANKS = (0, 8_191, 16_383)
NODES = RANKS // RANKS_PER_NODE


def shard_samples() -> NDArray[np.int64]:
    """Return uneven counts, 900 to 1,100 samples a shard, that add up to 10^9."""
    counts = MEAN_SHARD_SAMPLES - 100 + (np.arange(SHARDS, dtype=np.int64) * 7919) % 201
    counts[-1] += SHARDS * MEAN_SHARD_SAMPLES - counts.sum()
    return counts


def layout(streams: int) -> Layout:
    """Return the layout with the window of the default recipe."""
    return Layout(shard_samples(), seed=0, streams=streams, window_shards=16, block_samples=MICRO_BATCH)


def peak_megabytes() -> float:
    """Return the largest resident set of this process so far (VmHWM)."""
    line = next(text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measure(rank: int, streams: int) -> None:
    """Print seconds and megabytes of one rank as JSON; runs in a process of its own."""
    before, started = peak_megabytes(), time.perf_counter()
    order = layout(streams)
    steps = Steps(order.samples, 1, RANKS * MICRO_BATCH, MICRO_BATCH, "short")
    requests = list(islice(training_requests(steps, order, rank, RANKS, 0), 10))
    seconds = time.perf_counter() - started
    assert all(len(request.sample_ids) == MICRO_BATCH for request in requests)
    print(json.dumps([seconds, peak_megabytes() - before, int(requests[0].sample_ids[0])]))


def shards_of_node(order: EpochOrder, node: int) -> int:
    """Return how many shards the ranks of a node read from in an epoch.

    A micro-batch is a block and the streams divide the ranks, or the ranks the streams; so rank r reads the streams
    r, r + ranks, r + 2 * ranks, ... modulo their number, in every step.
    """
    streams = order.layout.streams
    assert streams % RANKS == 0 or RANKS % streams == 0
    ranks = range(node * RANKS_PER_NODE, (node + 1) * RANKS_PER_NODE)
    read = {stream % streams for rank in ranks for stream in range(rank, max(streams, rank + 1), RANKS)}
    return len(set().union(*(order.shards_of_stream(stream) for stream in read)))


def main() -> None:
    """Measure the ranks and print the figures beside the targets."""
    for streams in (RANKS, 64):
        print(f"{SHARDS:,} shards, {SHARDS * MEAN_SHARD_SAMPLES:,} samples, {RANKS:,} ranks, {streams:,} streams")
        for rank in MEASURED_RANKS:
            command = [sys.executable, __file__, str(rank), str(streams)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, megabytes, _ = json.loads(done.stdout)
            print(
                f"  rank {rank:6,}  {seconds:.2f} s (target below {TARGET_SECONDS:g}), "
                f"{megabytes:.0f} MB (target below {TARGET_MEGABYTES})"
            )
        order = EpochOrder(layout(streams), epoch=0)
        counts = [shards_of_node(order, node) for node in range(0, NODES, NODES // 64)]
        print(
            f"  shards of a node: {min(counts):,} to {max(counts):,} (64 nodes); shards / nodes = {SHARDS / NODES:,.0f}"
        )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(int(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
