"""The splits that a recipe sees: parts of those there are, by hash, subset and mask, of one or more data sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megabatch.configs.data import Data
from megabatch.configs.sampling import HashSplit
from megabatch.data.classes import Labels, RelabellingReader, labels_in
from megabatch.data.dataset import Dataset, Split
from megabatch.data.errors import DataError
from megabatch.data.order import starts
from megabatch.data.read import Reader, SplitReader
from megabatch.data.replay import same_of_each_class
from megabatch.data.selection import hash_bounds, hashed_into, key_hash, listed, not_masked, read_mask, sample_keys
from megabatch.data.targets import TargetReader


@dataclass(frozen=True)
class Part:
    """What a recipe takes of one split of one data set: sorted ids of its samples, or None for all of them.

    `labels` leads from labels as they are written to those of the recipe; None where they are the same.
    """

    dataset: Dataset
    split: Split
    chosen: NDArray[np.int64] | None = None
    labels: Labels = None

    @property
    def sample_ids(self) -> NDArray[np.int64]:
        """Return the ids of the samples taken, shape (samples,)."""
        return np.arange(self.split.samples) if self.chosen is None else self.chosen

    @property
    def shard_samples(self) -> NDArray[np.int64]:
        """Return the number of samples in each shard, taken or not."""
        return np.array([shard.samples for shard in self.split.shards], dtype=np.int64)

    def reader(self, target: TargetReader | None = None) -> Reader:
        """Return what reads the samples of the whole split, with the labels of the recipe."""
        reader = SplitReader(self.dataset.folder, self.split, target)
        return reader if self.labels is None else RelabellingReader(reader, self.labels)

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
    data: Data, datasets: Sequence[Dataset], folder: Path, labels: Sequence[Labels] = ()
) -> dict[str, tuple[Part, ...]]:
    """Return what each split is made of, by the name that the recipe uses for it; only samples with one of `labels`.

    `labels` has those of each data set. Files named in the recipe are looked up from `folder`. Raises DataError for
    what does not fit the data.
    """
    labels = labels or [None] * len(datasets)
    written = _LabelsOnce(datasets)
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
        if any(of_dataset is not None for of_dataset in labels):
            yield np.concatenate([_of_labels(written, n, of, labels[n]) for n in _members(datasets, of)])
        if data.subset is not None and name == data.train_split:
            yield listed(keys(of), folder / data.subset, of)
        if of in excluded:
            assert data.mask is not None
            yield not_masked(keys(of), excluded[of], folder / data.mask, of)

    parts = {
        name: _parts(datasets, labels, of, list(conditions(name, of, bounds)))
        for name, (of, bounds) in _named(data.hash_split, present).items()
    }
    for number, source in enumerate(data.sources):
        train = parts.get(data.train_split, ())
        if source.train_samples is not None:
            parts[data.train_split] = tuple(
                _limited(part, source.train_samples, written.of(number, part.split.name))
                if part.dataset is datasets[number]
                else part
                for part in train
            )
    return parts


class _LabelsOnce:
    """The labels of splits as they are written; a data set that is several sources is read once."""

    def __init__(self, datasets: Sequence[Dataset]):
        self._datasets = datasets
        self._read: dict[tuple[Path, str], NDArray[np.int64]] = {}

    def of(self, number: int, split: str) -> NDArray[np.int64]:
        """Return the label of every sample of a split of a data set."""
        place = self._datasets[number].folder, split
        if place not in self._read:
            self._read[place] = labels_in(self._datasets[number], split)
        return self._read[place]


def _members(datasets: Sequence[Dataset], split: str) -> list[int]:
    return [number for number, dataset in enumerate(datasets) if split in dataset.split_names]


def _of_labels(written: _LabelsOnce, number: int, split: str, labels: Labels) -> NDArray[np.bool_]:
    found = written.of(number, split)
    return np.ones(len(found), dtype=np.bool_) if labels is None else np.isin(found, list(labels))


def _limited(part: Part, most: int, written: NDArray[np.int64]) -> Part:
    """Return the part with at most so many samples, the same number of each class (data/replay.py)."""
    ids = part.sample_ids
    keys = sample_keys(part.dataset.folder, part.split)
    known = part.labels or {label: label for label in range(len(part.dataset.classes))}
    classes = {label: part.dataset.classes[new] for label, new in known.items()}
    chosen = same_of_each_class(
        written[ids], [key_hash(keys[number]) for number in ids.tolist()], classes, most, part.dataset.shown
    )
    counts = dict.fromkeys(known.values(), most // len(classes))
    return replace(part, split=replace(part.split, label_counts=counts), chosen=ids[chosen])


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


def _parts(
    datasets: Sequence[Dataset], labels: Sequence[Labels], of: str, conditions: Sequence[NDArray[np.bool_]]
) -> tuple[Part, ...]:
    """Cut the samples that meet all conditions into those of each data set that has the split."""
    members = _members(datasets, of)
    if not conditions:
        return tuple(Part(datasets[number], datasets[number].split(of)) for number in members)
    flags = np.logical_and.reduce(conditions)
    ends = np.cumsum([datasets[number].split(of).samples for number in members])
    pieces = np.split(flags, ends[:-1])
    return tuple(
        Part(datasets[number], datasets[number].split(of), np.flatnonzero(piece), labels[number])
        for number, piece in zip(members, pieces, strict=True)
    )
