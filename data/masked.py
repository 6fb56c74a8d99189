"""What a mask leaves out, counted by split, shard and reason, so that no sample is missing without a number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from megabatch.data.dataset import Dataset
from megabatch.data.selection import read_mask, sample_keys

_NO_REASON = "masked"  # a mask may be a plain list of keys


class MaskedSamples(NamedTuple):
    """How many samples of a shard are masked for a reason."""

    split: str
    shard: str
    reason: str
    samples: int


def masked_samples(datasets: Sequence[Dataset], mask: Path) -> list[MaskedSamples]:
    """Count what a mask file leaves out of data sets. Splits are those of the data, before any split by hash."""
    found = []
    for split_name, excluded in read_mask(mask).items():
        for dataset in datasets:
            if split_name in dataset.split_names:
                found += _of_split(dataset, split_name, excluded)
    return found


def _of_split(dataset: Dataset, name: str, excluded: Collection[str]) -> list[MaskedSamples]:
    split = dataset.split(name)
    found = []
    for shard in split.shards:
        keys = sample_keys(dataset.folder, replace(split, shards=(shard,)))
        reasons = Counter(_reason(excluded, key) for key in keys if key in excluded)
        found += [MaskedSamples(name, shard.file, reason, count) for reason, count in sorted(reasons.items())]
    return found


def _reason(excluded: Collection[str], key: str) -> str:
    return str(excluded[key]) if isinstance(excluded, dict) else _NO_REASON
