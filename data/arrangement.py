"""What a recipe makes of its data sets: the splits it sees and the order of training. Reads no images.

The launcher calls `arrange` for the plan, and so does every rank; both come to the same, since it depends on the
recipe, the data and the files that the recipe names, and on nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megabatch.configs.data import Data
from megabatch.configs.differences import differences, first_difference
from megabatch.configs.job import Job
from megabatch.configs.recipe import Recipe
from megabatch.configs.sampling import ClassBalanced, Uniform, Weighted
from megabatch.configs.targets import ClassTarget, LabelsTarget, NumbersTarget, num_outputs
from megabatch.data.classes import new_labels, with_classes
from megabatch.data.dataset import Dataset, Shard, Split, fingerprint
from megabatch.data.draws import Order, RepeatedOrder
from megabatch.data.errors import DataError
from megabatch.data.hashing import key
from megabatch.data.importer import Progress
from megabatch.data.mixture import JoinedReader, MixedOrder
from megabatch.data.order import Layout, PickedOrder
from megabatch.data.parts import Part, first_ids, joined_ids, recipe_parts
from megabatch.data.read import Reader
from megabatch.data.sampling import WeightedPicks, by_name, class_balanced, read_weights, weighted
from megabatch.data.selection import sample_keys
from megabatch.data.sources.open import open_dataset
from megabatch.data.sources.places import visible
from megabatch.data.stream_order import StreamOrder, expand
from megabatch.data.targets import TargetReader, target_reader

_SOURCE = 12  # what a key is for


@dataclass(frozen=True)
class Arrangement:
    """The splits by the names that the recipe uses for them, each a part of one or more data sets."""

    recipe: Recipe
    folder: Path
    datasets: tuple[Dataset, ...]
    parts: dict[str, tuple[Part, ...]]
    streams: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Return the number of classes, which all data sets share."""
        return len(self.datasets[0].classes)

    @property
    def num_outputs(self) -> int:
        """Return how many outputs the network needs: the classes, or the numbers of a target."""
        return num_outputs(self.recipe.data.target, self.num_classes)

    @property
    def target(self) -> TargetReader | None:
        """Return what reads a target that is no class."""
        return target_reader(self.recipe.data.target, self.datasets[0].classes)

    @property
    def described(self) -> list[Dataset]:
        """Return the data sets, each with the splits that the recipe sees and the counts of what it takes."""
        owned = [(name, part) for name, parts in self.parts.items() for part in parts]
        return [
            replace(d, splits=tuple(part.described(name) for name, part in owned if part.dataset is d))
            for d in self.datasets
        ]

    @property
    def whole(self) -> Dataset:
        """Return all data sets as one: the shards of the first, then those of the second, and so on."""
        if len(self.datasets) == 1:
            return self._with_stream(self.described[0])
        splits = tuple(_joined_split(name, parts) for name, parts in self.parts.items())
        return replace(self.datasets[0], splits=splits)

    def _with_stream(self, dataset: Dataset) -> Dataset:
        """Return the data set with a split in place of the stream, for those who only count."""
        stream = self.recipe.data.train_stream
        if stream is None:
            return dataset
        shards = tuple(Shard(url, 0, 0, "") for url in self.streams[1:])
        counted = (Shard(self.streams[0], stream.samples, 0, ""), *shards)
        split = Split(self.recipe.data.train_split, counted, {0: stream.samples})
        return replace(dataset, splits=(split, *dataset.splits))

    def reader(self, name: str) -> Reader:
        """Return what reads the samples of a split by id; ids run on from one data set to the next."""
        if name not in self.parts:
            raise DataError(f"split {name!r} is a stream (data.train_stream), which has no samples by id")
        readers = [part.reader(self.target) for part in self.parts[name]]
        return readers[0] if len(readers) == 1 else JoinedReader(readers)

    def sample_ids(self, name: str) -> NDArray[np.int64]:
        """Return the ids of the samples that the recipe takes of a split, sorted."""
        return joined_ids(self.parts[name])

    def sample_ids_by_source(self, name: str) -> list[NDArray[np.int64]]:
        """Return them by the data sets that they are of."""
        parts = self.parts[name]
        return [first + part.sample_ids for first, part in zip(first_ids(parts), parts, strict=True)]

    def order(self) -> Order:
        """Return the order of training. Raises DataError for weights that do not fit the data."""
        data = self.recipe.data
        if data.train_stream is not None:
            return StreamOrder(data.train_stream.samples)
        parts = self.parts[data.train_split]
        order: Order
        drawn = [n for n, source in enumerate(data.sources) if source.weight is not None]
        if drawn:
            weights = [Fraction(repr(data.sources[n].weight)) for n in drawn]
            _require_samples([parts[n] for n in drawn])
            orders = [self._order([parts[n]], key(self.recipe.seed, _SOURCE, n)) for n in drawn]
            firsts = first_ids(parts)
            order = MixedOrder(orders, [firsts[n] for n in drawn], weights)
        else:
            order = self._order(parts, self.recipe.seed)
        return order if data.repeats == 1 else RepeatedOrder(order, data.repeats)

    def _order(self, parts: Sequence[Part], seed: int) -> Order:
        shuffle, sampling = self.recipe.data.shuffle, self.recipe.data.sampling
        shard_samples = np.concatenate([part.shard_samples for part in parts])
        layout = Layout(shard_samples, seed, shuffle.streams, shuffle.window_shards, shuffle.block_samples)
        if isinstance(sampling, Uniform) and all(part.chosen is None for part in parts):
            return layout
        sample_ids = joined_ids(parts)
        if isinstance(sampling, Uniform):
            return PickedOrder(layout, len(sample_ids), lambda epoch: sample_ids)
        return PickedOrder(layout, len(sample_ids), self._picks(parts, sample_ids, seed))

    def _picks(self, parts: Sequence[Part], sample_ids: NDArray[np.int64], seed: int) -> WeightedPicks:
        sampling = self.recipe.data.sampling
        if isinstance(sampling, ClassBalanced):
            _require_classes(parts, "data.sampling is class_balanced")
        reader = JoinedReader([part.reader() for part in parts])
        labels = np.fromiter((reader.read(number).label for number in sample_ids.tolist()), np.int64, len(sample_ids))
        if isinstance(sampling, ClassBalanced):
            return class_balanced(sample_ids, labels, seed)
        assert isinstance(sampling, Weighted)
        file = self.folder / sampling.file
        weights = read_weights(file)
        if weights.by_class:
            _require_classes(parts, f"{file} has weights of classes")
            known = self.datasets[0].classes
            names = [known[label] for label in labels.tolist()]
        else:
            known = tuple(_keys(self.parts[self.recipe.data.train_split]))
            keys = _keys(parts)
            names = [keys[number] for number in sample_ids.tolist()]
        return weighted(sample_ids, labels, by_name(weights, names, known, file), seed, str(file))

    def contents(self) -> dict[str, str]:
        """Return in words what there is of classes and of each split, with a digest, to tell what changed."""
        found = {}
        for number, dataset in enumerate(self.datasets):
            source = f"sources.{number}." if len(self.datasets) > 1 else ""
            classes = _digest(json.dumps(dataset.classes).encode())
            found[f"{source}classes"] = f"{len(dataset.classes):,} ({classes[:12]})"
        for name, parts in self.parts.items():
            for number, part in enumerate(parts):
                source = f"sources.{number}." if len(parts) > 1 else ""
                chosen = b"" if part.chosen is None else part.chosen.astype("<i8").tobytes()
                shards = json.dumps([shard.sha256 for shard in part.split.shards]).encode()
                samples = part.split.samples if part.chosen is None else len(part.chosen)
                digest = _digest(shards + chosen)[:12]
                found[f"{source}{name}"] = f"{samples:,} samples of {len(part.split.shards):,} shards ({digest})"
        return found

    def fingerprint(self) -> str:
        """Return the SHA-256 of the data and of what is chosen of them; of plain data just their fingerprint."""
        sampling = self.recipe.data.sampling
        chosen = {
            name: [None if part.chosen is None else _digest(part.chosen.astype("<i8").tobytes()) for part in parts]
            for name, parts in self.parts.items()
        }
        weights = _digest((self.folder / sampling.file).read_bytes()) if isinstance(sampling, Weighted) else None
        datasets = [fingerprint(dataset) for dataset in self.datasets]
        if len(datasets) == 1 and weights is None and all(part == [None] for part in chosen.values()):
            return datasets[0]
        return _digest(json.dumps([datasets, chosen, weights], sort_keys=True).encode())


def arrange(job: Job, progress: Progress = lambda done, total: None) -> Arrangement:
    """Open the data sets of a job and choose what the recipe takes of them. Raises DataError.

    `progress` is told of shards that have to be indexed first.
    """
    folder = Path(job.working_folder)
    datasets = tuple(open_dataset(location, folder, job.cluster.cache, progress) for location in job.data_locations)
    chosen = job.recipe.data.classes
    if not isinstance(job.recipe.data.target, NumbersTarget) and not chosen:
        _require_same_classes(datasets)
    labels = new_labels(datasets, job.recipe.data)
    datasets = tuple(
        dataset if of_dataset is None else with_classes(dataset, chosen or dataset.classes, of_dataset)
        for dataset, of_dataset in zip(datasets, labels, strict=True)
    )
    parts = recipe_parts(job.recipe.data, datasets, folder, labels)
    train = job.recipe.data.train_split
    streams: tuple[str, ...] = ()
    if job.recipe.data.train_stream is not None:
        stream = job.recipe.data.train_stream
        streams = tuple(expand(stream.urls, stream.allow_pipe))
        parts.pop(train, None)
    for dataset in datasets if train in parts else ():
        if not any(part.dataset is dataset for part in parts[train]):
            raise DataError(f"{dataset.shown}: has no split {train!r} to train on, as other sources have: leave it out")
    _require_targets(job.recipe.data, parts)
    return Arrangement(job.recipe, folder, datasets, parts, streams)


def changes_of_data(job: Job, contents: Mapping[str, str]) -> str:
    """Return in brackets what is not as it was when the job was written; empty where its job.yaml does not tell."""
    changed = differences(job.data_contents, contents) if job.data_contents else []
    return f" ({'; '.join(changed)})" if changed else ""


def shown_data(job: Job) -> str:
    """Return where the data lie, for a message: without passwords."""
    return ", ".join(visible(location) for location in job.data_locations)


def _require_same_classes(datasets: Sequence[Dataset]) -> None:
    first = datasets[0]
    for other in datasets[1:]:
        if other.classes == first.classes:
            continue
        number, mine, its = first_difference(first.classes, other.classes)
        raise DataError(
            f"{other.shown}: label {number} is {its}, but in {first.shown} it is {mine}: sources are mixed by "
            "label, so all need the same classes in the same order. Import them with the same classes.txt, or name the "
            "classes in data.classes, which finds them in each source by their names"
        )


def _joined_split(name: str, parts: Sequence[Part]) -> Split:
    splits = [part.described(name) for part in parts]
    shards = tuple(
        replace(shard, file=str(part.dataset.folder / shard.file))
        for part, split in zip(parts, splits, strict=True)
        for shard in split.shards
    )
    labels = {label for split in splits for label in split.label_counts}
    return Split(name, shards, {label: sum(s.label_counts.get(label, 0) for s in splits) for label in sorted(labels)})


def _require_samples(parts: Sequence[Part]) -> None:
    for part in parts:
        if len(part.sample_ids) == 0:
            raise DataError(
                f"{part.dataset.shown}: no sample of it is left to train on, so it cannot have its share: "
                "leave the source out"
            )


def _require_targets(data: Data, parts: dict[str, tuple[Part, ...]]) -> None:
    """Raise DataError if a split that is used lacks what the recipe asks of it: classes in .cls, or their names."""
    used = (data.train_split, data.validation_split, data.test_split)
    for part in (part for name in used if name is not None for part in parts.get(name, ()) if part.split.samples):
        where = f"{part.dataset.shown}: the samples of split {part.split.name!r} have no .cls"
        if isinstance(data.target, ClassTarget) and not part.split.has_classes:
            raise DataError(
                f"{where}, so there is no class to train towards. Captions and JSON are read only if data.target says "
                "what of them: {name: numbers, member: json, keys: [...]} or {name: labels, key: ...}"
            )
        if isinstance(data.target, LabelsTarget) and not part.dataset.classes:
            raise DataError(
                f"{where}, and no classes are listed, so labels have no meaning: write every class into classes.txt, "
                f"one a line, and run `megabatch data index {part.dataset.shown}`"
            )


def _require_classes(parts: Sequence[Part], why: str) -> None:
    for part in parts:
        if not part.split.has_classes:
            raise DataError(f"{why}, but the samples of {part.dataset.shown} have no .cls")


def _keys(parts: Sequence[Part]) -> list[str]:
    return [key for part in parts for key in sample_keys(part.dataset.folder, part.split)]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
