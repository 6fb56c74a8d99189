"""Statistics of a data set: mean and deviation of the channels, sizes, formats, classes. One pass over every image.

Mean and deviation are over all pixels of an image, and then over the images, each counting alike whatever its size. The
sums are kept as whole numbers, so they are exact, and the same for any number of threads and any order.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from megabatch.configs.new_file import write_new
from megabatch.configs.normalization import STATS_FORMAT
from megabatch.data.dataset import Dataset, Split, fingerprint
from megabatch.data.decode import Pixels, decode_image
from megabatch.data.errors import DataError
from megabatch.data.formats import format_of
from megabatch.data.read import SplitReader

FILE_NAME = "stats.json"
_UNIT = 1 << 64  # a share of 1 as a whole number
_WHITE = 255
_MOST_PIXELS = 100_000_000  # as data.max_image_pixels unless a recipe says otherwise


class _OfImage(NamedTuple):
    """What one image adds: means of the pixels and of their squares on the scale 0 to 255 (squared), in 1 / _UNIT."""

    means: tuple[int, ...]
    squares: tuple[int, ...]
    height: int
    width: int
    num_bytes: int
    format: str


@dataclass
class SplitStats:
    """Sums over the images of a split, and the messages of those that could not be decoded."""

    counts: dict[int, int]
    means: list[int] = field(default_factory=lambda: [0, 0, 0])
    squares: list[int] = field(default_factory=lambda: [0, 0, 0])
    heights: Counter[int] = field(default_factory=Counter)
    widths: Counter[int] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    num_bytes: int = 0
    broken: list[str] = field(default_factory=list)

    @property
    def samples(self) -> int:
        """Return how many images were decoded."""
        return sum(self.heights.values())

    def add(self, image: _OfImage) -> None:
        """Count one image in."""
        self.means = [total + new for total, new in zip(self.means, image.means, strict=True)]
        self.squares = [total + new for total, new in zip(self.squares, image.squares, strict=True)]
        self.heights[image.height] += 1
        self.widths[image.width] += 1
        self.formats[image.format] += 1
        self.num_bytes += image.num_bytes

    def mean(self) -> list[float]:
        """Return the mean of each channel on the scale 0 to 1."""
        return [total / (_UNIT * self.samples * _WHITE) for total in self.means]

    def std(self) -> list[float]:
        """Return the standard deviation of each channel on the scale 0 to 1, over all pixels (divided by n)."""
        unit = _UNIT * self.samples
        variances = (q * unit - m * m for q, m in zip(self.squares, self.means, strict=True))  # in 1 / unit^2
        return [math.sqrt(variance / (unit * unit)) / _WHITE for variance in variances]

    def to_json(self) -> dict[str, Any]:
        """Return the entry of the split in stats.json."""
        return {
            "samples": self.samples,
            "broken": len(self.broken),
            "mean": self.mean(),
            "std": self.std(),
            "height": _spread(self.heights),
            "width": _spread(self.widths),
            "bytes": self.num_bytes,
            "formats": dict(sorted(self.formats.items())),
            **self._of_classes(),
        }

    def _of_classes(self) -> dict[str, Any]:
        """Return how many images the classes have; nothing where samples have no class."""
        if not self.counts:
            return {}
        most, fewest = max(self.counts.values()), min(self.counts.values())
        return {
            "classes": len(self.counts), "largest_class": most, "smallest_class": fewest, "imbalance": most / fewest,
        }  # fmt: skip


def split_stats(dataset: Dataset, split: Split, threads: int, progress: Callable[[int, int], None]) -> SplitStats:
    """Decode every image of a split. A shard that cannot be read raises DataError; a broken image is counted."""
    reader = SplitReader(dataset.folder, split)
    stats = SplitStats(split.label_counts)

    def looked_at(sample_id: int) -> _OfImage | str:
        sample = reader.read(sample_id)
        try:
            return _of_image(decode_image(sample.image, _MOST_PIXELS), sample.image)
        except ValueError as error:
            return f"{sample.where}: {error}"

    first = 0
    with ThreadPoolExecutor(threads) as pool:
        for number, shard in enumerate(split.shards):
            for found in pool.map(looked_at, range(first, first + shard.samples)):
                if isinstance(found, str):
                    stats.broken.append(found)
                else:
                    stats.add(found)
            first += shard.samples
            progress(number + 1, len(split.shards))
    if stats.samples == 0:
        raise DataError(f"{dataset.shown}: no image of split {split.name!r} can be decoded: {stats.broken[:1]}")
    return stats


def _of_image(pixels_HWC: Pixels, payload: memoryview) -> _OfImage:
    values = pixels_HWC.reshape(-1, 3).astype(np.uint32)
    sums, squares = values.sum(axis=0, dtype=np.uint64), (values * values).sum(axis=0, dtype=np.uint64)
    count = len(values)
    image_format = format_of(payload)
    return _OfImage(
        tuple(int(total) * _UNIT // count for total in sums),
        tuple(int(total) * _UNIT // count for total in squares),
        pixels_HWC.shape[0], pixels_HWC.shape[1], len(payload), image_format.name if image_format else "other",
    )  # fmt: skip


def _spread(counts: Counter[int]) -> dict[str, int]:
    """Return the smallest, the middle and the largest value."""
    values = sorted(counts)
    upto, half = 0, sum(counts.values()) / 2
    for value in values:
        upto += counts[value]
        if upto >= half:
            return {"min": values[0], "median": value, "max": values[-1]}
    raise AssertionError("no values")


def write_stats(dataset: Dataset, splits: dict[str, SplitStats], file: Path) -> None:
    """Write stats.json; it is there whole or not at all. Raises DataError if it cannot be written."""
    values = {"format": STATS_FORMAT, "dataset": fingerprint(dataset)}
    content = json.dumps({**values, **{name: stats.to_json() for name, stats in splits.items()}}, indent=1)
    hidden = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        write_new(hidden, content + "\n")
        hidden.rename(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be written ({error.strerror}): name a file of yours with --out") from None
    finally:
        hidden.unlink(missing_ok=True)
