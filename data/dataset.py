"""dataset.json: what lies in a folder of shards. Sizes, checksums, label counts; never the samples themselves."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabatch.data.errors import DataError

FILE_NAME = "dataset.json"
_FORMAT = "megabatch-dataset-1"


@dataclass(frozen=True)
class Shard:
    """One .tar file, relative to the folder of the data set; its index lies beside it as .idx."""

    file: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """The shards of train, validation or test, in order, and how often each label occurs."""

    name: str
    shards: tuple[Shard, ...]
    label_counts: dict[int, int]

    @property
    def samples(self) -> int:
        """Return the number of samples."""
        return sum(shard.samples for shard in self.shards)

    def label_range(self) -> tuple[int, int]:
        """Return the smallest and the largest label. The split must not be empty."""
        return min(self.label_counts), max(self.label_counts)


@dataclass(frozen=True)
class Dataset:
    """A folder of shards. The label of a sample is an index into `classes`."""

    folder: Path
    classes: tuple[str, ...]
    splits: tuple[Split, ...]

    @property
    def split_names(self) -> list[str]:
        """Return the names of the splits."""
        return [split.name for split in self.splits]

    def split(self, name: str) -> Split:
        """Return a split by name. Raises DataError with the names there are."""
        for split in self.splits:
            if split.name == name:
                return split
        raise DataError(f"{self.folder}: has no split {name!r}, only {', '.join(self.split_names) or 'none'}")


def read_dataset(folder: Path) -> Dataset:
    """Read dataset.json. Raises DataError that says how to make one."""
    file = folder / FILE_NAME
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. `megabatch data import IMAGES {folder}` makes a data set of images")
    if not file.is_file():
        raise DataError(
            f"{file}: missing. `megabatch data index {folder}` makes it for existing shards, "
            f"`megabatch data import IMAGES OUT` for images"
        )
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values["format"] != _FORMAT:
            raise DataError(
                f"{file}: format {values['format']!r}, this version reads {_FORMAT!r}: index the shards again"
            )
        splits = tuple(_split(name, split) for name, split in values["splits"].items())
        dataset = Dataset(folder, tuple(map(str, values["classes"])), splits)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{file}: damaged ({type(error).__name__}: {error}). `megabatch data index {folder}` makes it"
        ) from None
    for shard in (shard for split in dataset.splits for shard in split.shards):
        if Path(shard.file).is_absolute() or ".." in Path(shard.file).parts:
            raise DataError(f"{file}: {shard.file}: a shard must lie inside {folder}")
    return dataset


def _split(name: str, values: dict[str, Any]) -> Split:
    shards = tuple(Shard(s["file"], int(s["samples"]), int(s["bytes"]), s["sha256"]) for s in values["shards"])
    return Split(name, shards, {int(label): int(count) for label, count in values["label_counts"].items()})


def write_dataset(dataset: Dataset) -> None:
    """Write dataset.json; it is there whole or not at all."""
    splits = {
        split.name: {
            "samples": split.samples,
            "label_counts": {str(label): count for label, count in sorted(split.label_counts.items())},
            "shards": [vars(shard) for shard in split.shards],
        }
        for split in dataset.splits
    }
    values = {"format": _FORMAT, "classes": list(dataset.classes), "splits": splits}
    hidden = dataset.folder / f".{FILE_NAME}.{os.getpid()}"
    with hidden.open("w", encoding="utf-8") as file:
        json.dump(values, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    hidden.rename(dataset.folder / FILE_NAME)


def missing_or_changed_shards(dataset: Dataset, splits: Iterable[str]) -> list[str]:
    """Return one message for each shard that is missing, has another size than recorded, or has no index."""
    problems = []
    for shard in (shard for name in splits for shard in dataset.split(name).shards):
        path = dataset.folder / shard.file
        if not path.is_file():
            problems.append(
                f"{path}: missing. Copy it back, or make dataset.json anew: megabatch data index {dataset.folder}"
            )
        elif path.stat().st_size != shard.bytes:
            problems.append(
                f"{path}: {path.stat().st_size:,} bytes, dataset.json recorded {shard.bytes:,}: the shard was cut or "
                f"changed. Copy it again, or index it anew: megabatch data index {dataset.folder}"
            )
        elif not path.with_suffix(".idx").is_file():
            problems.append(f"{path.with_suffix('.idx')}: missing. Make it with: megabatch data index {dataset.folder}")
    return problems


def fingerprint(dataset: Dataset) -> str:
    """Return the SHA-256 of the classes and of every shard's checksum: the same data, wherever it lies."""
    digest = hashlib.sha256(json.dumps(dataset.classes).encode())
    for split in dataset.splits:
        digest.update(json.dumps([split.name, [shard.sha256 for shard in split.shards]]).encode())
    return digest.hexdigest()
