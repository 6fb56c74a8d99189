"""Some of the classes of a data set as if there were no others: their samples, with labels in the order asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from megabatch.configs.errors import nearest
from megabatch.data.dataset import Dataset, Split
from megabatch.data.errors import DataError
from megabatch.data.read import EncodedSample, Reader, SplitReader


def new_labels(dataset: Dataset, classes: Sequence[str]) -> dict[int, int]:
    """Return which label each of the chosen classes gets, by the label that it has. Raises DataError."""
    unknown = [name for name in classes if name not in dataset.classes]
    if unknown:
        raise DataError(
            f"data.classes: {dataset.shown} has no class {unknown[0]!r}. {nearest(unknown[0], dataset.classes)}"
        )
    return {dataset.classes.index(name): number for number, name in enumerate(classes)}


def with_classes(dataset: Dataset, classes: Sequence[str], labels: Mapping[int, int]) -> Dataset:
    """Return the data set with these classes alone; its splits still have all samples (`of_classes` chooses)."""
    return replace(
        dataset, classes=tuple(classes), splits=tuple(_with_labels(split, labels) for split in dataset.splits)
    )


def of_classes(datasets: Sequence[Dataset], split: str, labels: Collection[int]) -> NDArray[np.bool_]:
    """Return which samples of a split, of one data set after the other, have one of the labels. Reads every label."""
    found = []
    for dataset in datasets:
        reader = SplitReader(dataset.folder, dataset.split(split))
        found += [reader.read(number).label in labels for number in range(reader.samples)]
    return np.array(found, dtype=np.bool_)


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
        return replace(sample, label=self._labels.get(sample.label, len(self._labels)))

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
