"""The splits that a recipe sees: parts of those there are, by hash, subset and mask, of one or more data sets."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megabatch.configs.data import Data
from megabatch.configs.sampling import HashSplit
from megabatch.data.classes import of_classes
from megabatch.data.dataset import Dataset, Split
from megabatch.data.errors import DataError
from megabatch.data.order import starts
from megabatch.data.selection import hash_bounds, hashed_into, key_hash, listed, not_masked, read_mask, sample_keys


@dataclass(frozen=True)
class Part:
    """What a recipe takes of one split of one data set: sorted ids of its samples, or None for all of them."""

    dataset: Dataset
    split: Split
    chosen: NDArray[np.int64] | None = None

    @property
    def sample_ids(self) -> NDArray[np.int64]:
        """Return the ids of the samples taken, shape (samples,)."""
        return np.arange(self.split.samples) if self.chosen is None else self.chosen

    @property
    def shard_samples(self) -> NDArray[np.int64]:
        """Return the number of samples in each shard, taken or not."""
        return np.array([shard.samples for shard in self.split.shards], dtype=np.int64)

    def described(self, name: str) -> Split:
        """Return the split with the counts of what is taken. The labels stay those of the whole split."""
        if self.chosen is None:
            return replace(self.split, name=name)
        counts = np.diff(np.searchsorted(self.chosen, starts(self.shard_samples))).tolist()
        shards = zip(self.split.shards, counts, strict=True)
        return Split(name, tuple(replace(shard, samples=count) for shard, count in shards), self.split.label_counts)


def joined_ids(parts: Sequence[Part]) -> NDArray[np.int64]:
    """Return the ids of the samples taken, in which those of each part go on where those of the part before it end."""
    return np.concatenate([first + part.sample_ids for first, part in zip(first_ids(parts), parts, strict=True)])


def first_ids(parts: Sequence[Part]) -> list[int]:
    """Return the id of the first sample of each part."""
    return list(accumulate((part.split.samples for part in parts[:-1]), initial=0))


def recipe_parts(
    data: Data, datasets: Sequence[Dataset], folder: Path, labels: Collection[int] = ()
) -> dict[str, tuple[Part, ...]]:
    """Return what each split is made of, by the name that the recipe uses for it; only samples with one of `labels`.

    Files named in the recipe are looked up from `folder`. Raises DataError for what does not fit the data.
    """
    present = list(dict.fromkeys(name for dataset in datasets for name in dataset.split_names))
    excluded = read_mask(folder / data.mask) if data.mask is not None else {}
    for name in excluded:
        _require_split(name, present, f"{data.mask}: excluded.{name}")

    @cache
    def keys(name: str) -> list[str]:
        return [key for d in datasets if name in d.split_names for key in sample_keys(d.folder, d.split(name))]

    @cache
    def hashes(name: str) -> list[int]:
        return [key_hash(key) for key in keys(name)]

    def conditions(name: str, of: str, bounds: tuple[int, int] | None) -> Iterator[NDArray[np.bool_]]:
        if bounds is not None:
            yield hashed_into(hashes(of), bounds)
        if labels:
            yield of_classes([dataset for dataset in datasets if of in dataset.split_names], of, labels)
        if data.subset is not None and name == data.train_split:
            yield listed(keys(of), folder / data.subset, of)
        if of in excluded:
            assert data.mask is not None
            yield not_masked(keys(of), excluded[of], folder / data.mask, of)

    return {
        name: _parts(datasets, of, list(conditions(name, of, bounds)))
        for name, (of, bounds) in _named(data.hash_split, present).items()
    }


def _named(hash_split: HashSplit | None, present: Sequence[str]) -> dict[str, tuple[str, tuple[int, int] | None]]:
    """Return for each split of the recipe the split it is taken from, and which hashes belong to it."""
    named: dict[str, tuple[str, tuple[int, int] | None]] = {name: (name, None) for name in present}
    if hash_split is None:
        return named
    of = hash_split.of
    _require_split(of, present, "data.hash_split.of")
    del named[of]
    shares = {name: Fraction(repr(getattr(hash_split, name))) for name in ("train", "validation", "test")}
    for name, bounds in hash_bounds(shares).items():
        if shares[name] and name in named:
            raise DataError(
                f"data.hash_split.{name} makes a split {name!r} out of {of!r}, but the data have one already: leave "
                f"the share of {name} out to use the split there is"
            )
        if shares[name]:
            named[name] = of, bounds
    return named


def _require_split(name: str, present: Sequence[str], where: str) -> None:
    if name not in present:
        raise DataError(f"{where}: there is no split {name!r}, only {', '.join(present) or 'none'}")


def _parts(datasets: Sequence[Dataset], of: str, conditions: Sequence[NDArray[np.bool_]]) -> tuple[Part, ...]:
    """Cut the samples that meet all conditions into those of each data set that has the split."""
    members = [dataset for dataset in datasets if of in dataset.split_names]
    if not conditions:
        return tuple(Part(dataset, dataset.split(of)) for dataset in members)
    flags = np.logical_and.reduce(conditions)
    ends = np.cumsum([dataset.split(of).samples for dataset in members])
    pieces = np.split(flags, ends[:-1])
    return tuple(
        Part(dataset, dataset.split(of), np.flatnonzero(piece)) for dataset, piece in zip(members, pieces, strict=True)
    )
