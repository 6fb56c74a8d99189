"""Threads or worker processes for the loader? The same samples, decoded and cropped by the same code, both ways.

    python benchmarks/loader_threads.py DATA_FOLDER [--image-size 224] [--passes 1] [--workers 2] [--rounds 3]

Prints images a second for our threads and for torch's DataLoader with that many worker processes (which copies each
batch through shared memory), interleaved, and the ratio of the medians. Pages are cached; the first round warms up.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from megabatch.configs.transforms import HorizontalFlip, RandomResizedCrop
from megabatch.data.augment.chain import decoding_chain
from megabatch.data.dataset import read_dataset
from megabatch.data.hashing import AUGMENT, RandomStream, key
from megabatch.data.loader import Loader
from megabatch.data.read import SplitReader
from megabatch.data.requests import Request

MICRO_BATCH = 64


class Samples(Dataset[tuple[torch.Tensor, int]]):
    """The loader's own work on one sample, as a map-style data set for DataLoader."""

    def __init__(self, loader: Loader, passes: int):
        self._loader = loader
        self._passes = passes

    def __len__(self) -> int:
        """Return the number of samples, all passes together."""
        return self._loader.reader.samples * self._passes

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        """Return pixels and label."""
        sample_id = position % self._loader.reader.samples
        sample = self._loader.reader.read(sample_id)
        pixels_HWC = np.empty((self._loader.image_size, self._loader.image_size, 3), dtype=np.uint8)
        self._loader.transform(sample.image, RandomStream(key(0, 0, AUGMENT, sample_id, 0)), pixels_HWC)
        return torch.from_numpy(pixels_HWC), sample.label


def requests(samples: int, passes: int) -> Iterator[Request]:
    """Yield every sample `passes` times, in order."""
    positions = samples * passes
    for number, start in enumerate(range(0, positions, MICRO_BATCH)):
        ids = np.arange(start, min(start + MICRO_BATCH, positions), dtype=np.int64) % samples
        yield Request(0, 0, number, ids, np.zeros_like(ids), samples, last=False)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--passes", type=int, default=1, help="times over the data in a round; more for small sets")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = read_dataset(options.folder)
    transform = decoding_chain([RandomResizedCrop(), HorizontalFlip()], options.image_size, 10**8)
    loader = Loader(
        SplitReader(dataset.folder, dataset.split("train")), transform, options.image_size, len(dataset.classes),
        seed=0, threads=options.workers,
    )  # fmt: skip
    samples = loader.reader.samples

    def with_threads() -> int:
        return sum(len(batch.labels_N) for batch in loader.load(requests(samples, options.passes)))

    def with_processes() -> int:
        batches = DataLoader(Samples(loader, options.passes), MICRO_BATCH, num_workers=options.workers)
        return sum(len(labels) for _, labels in batches)

    rates: dict[str, list[float]] = {"threads": [], "processes": []}
    ways: dict[str, Callable[[], int]] = {"threads": with_threads, "processes": with_processes}
    for round_number in range(options.rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            count = way()
            if round_number:
                rates[name].append(count / (time.perf_counter() - started))
    for name, values in rates.items():
        print(f"{name:10} {statistics.median(values):8.0f} images/s  ({min(values):.0f} to {max(values):.0f})")
    ratio = statistics.median(rates["threads"]) / statistics.median(rates["processes"])
    print(f"threads / processes = {ratio:.2f} with {options.workers} workers, {samples} images x {options.passes}")


if __name__ == "__main__":
    main()
