"""Some of the classes of a data set as if there were no others: their samples, with labels in the order asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from megabatch.configs.data import Data
from megabatch.configs.errors import nearest
from megabatch.data.dataset import Dataset, Split
from megabatch.data.errors import DataError
from megabatch.data.read import NO_LABEL, EncodedSample, Reader, SplitReader

Labels = Mapping[int, int] | None
"""Which label each class gets that is taken of a data set, by the label that it has; None: all as they are."""


def new_labels(datasets: Sequence[Dataset], data: Data) -> list[Labels]:
    """Return the labels of each data set, found by the names of classes. Raises DataError for a name there is not."""
    wanted = [source.classes for source in data.sources] or [()]
    for number, (dataset, names) in enumerate(zip(datasets, wanted, strict=True)):
        _require_known(names, dataset.classes, f"data.sources.{number}.classes: {dataset.shown} has")
    everywhere = list(dict.fromkeys(name for dataset in datasets for name in dataset.classes))
    several = f"none of {len(datasets)} data sets has" if len(datasets) > 1 else f"{datasets[0].shown} has"
    _require_known(data.classes, everywhere, f"data.classes: {several}")
    return [
        _labels(dataset.classes, data.classes or dataset.classes, names) if names or data.classes else None
        for dataset, names in zip(datasets, wanted, strict=True)
    ]


def _require_known(names: Sequence[str], known: Sequence[str], where: str) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        no = "a" if where.startswith("data.classes: none") else "no"
        raise DataError(f"{where} {no} class {unknown[0]!r}. {nearest(unknown[0], known)}")


def _labels(known: Sequence[str], names: Sequence[str], wanted: Sequence[str]) -> dict[int, int]:
    return {
        known.index(name): number
        for number, name in enumerate(names)
        if name in known and (not wanted or name in wanted)
    }


def with_classes(dataset: Dataset, classes: Sequence[str], labels: Mapping[int, int]) -> Dataset:
    """Return the data set with these classes alone; its splits still have all samples (data/parts.py chooses)."""
    return replace(
        dataset, classes=tuple(classes), splits=tuple(_with_labels(split, labels) for split in dataset.splits)
    )


def labels_in(dataset: Dataset, split: str) -> NDArray[np.int64]:
    """Return the label of every sample of a split, as it is written there: shape (samples,). Reads every label."""
    reader = SplitReader(dataset.folder, dataset.split(split))
    return np.fromiter((reader.read(number).label for number in range(reader.samples)), np.int64, reader.samples)


class RelabellingReader:
    """Reads what another reader reads, with the new labels; a label that is not among them becomes no class."""

    def __init__(self, reader: Reader, labels: Mapping[int, int]):
        self._reader = reader
        self._labels = labels

    @property
    def samples(self) -> int:
        """Return the number of samples, chosen or not."""
        return self._reader.samples

    def read(self, sample_id: int) -> EncodedSample:
        """Return a sample. Raises DataError naming its shard."""
        sample = self._reader.read(sample_id)
        return replace(sample, label=self._labels.get(sample.label, NO_LABEL))

    @property
    def is_remote(self) -> bool:
        """Return whether samples may lie elsewhere."""
        return self._reader.is_remote

    def prefetch(self, sample_ids: Iterable[int]) -> None:
        """Begin to load what these samples lie in."""
        self._reader.prefetch(sample_ids)


def _with_labels(split: Split, labels: Mapping[int, int]) -> Split:
    counts = {new: split.label_counts[old] for old, new in labels.items() if old in split.label_counts}
    return replace(split, label_counts=counts)
