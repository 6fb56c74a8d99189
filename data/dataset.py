"""dataset.json: what lies in a folder of shards. Sizes, checksums, label counts; never the samples themselves."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megabatch.configs.new_file import open_new
from megabatch.data.errors import DataError
from megabatch.data.sources.places import is_remote

if TYPE_CHECKING:
    from megabatch.data.sources.cache import ShardCache

FILE_NAME = "dataset.json"
_FORMAT = "megabatch-dataset-1"


@dataclass(frozen=True)
class Shard:
    """One .tar file, relative to the folder of the data set; its index lies in that folder as .idx.

    `url` says where the .tar itself lies if not there: an absolute path or a URL. It is not written to dataset.json,
    because whoever writes that file must not decide what is read outside its folder.
    """

    file: str
    samples: int
    bytes: int
    sha256: str
    url: str = ""

    def location(self, folder: Path) -> str:
        """Return where the .tar lies, given the folder of the data set."""
        return self.url or str(folder / self.file)


@dataclass(frozen=True)
class Split:
    """The shards of train, validation or test, in order, and how often each label occurs.

    Samples without a .cls have no labels to count. `cache` keeps the shards that lie elsewhere; without one all are on
    this machine.
    """

    name: str
    shards: tuple[Shard, ...]
    label_counts: dict[int, int]
    cache: ShardCache | None = field(default=None, compare=False, repr=False)

    @property
    def samples(self) -> int:
        """Return the number of samples."""
        return sum(shard.samples for shard in self.shards)

    @property
    def has_classes(self) -> bool:
        """Return whether the samples have a .cls."""
        return bool(self.label_counts)

    def label_range(self) -> tuple[int, int]:
        """Return the smallest and the largest label. The split must have classes."""
        return min(self.label_counts), max(self.label_counts)


@dataclass(frozen=True)
class Dataset:
    """A folder of shards. The label of a sample is an index into `classes`.

    `imported` tells shards that megabatch wrote, and so may write again, from somebody's own that it only indexed.
    `location` is what the user called the data set; `folder` is where its description and indexes are kept.
    """

    folder: Path
    classes: tuple[str, ...]
    splits: tuple[Split, ...]
    imported: bool = False
    location: str = field(default="", compare=False)

    @property
    def shown(self) -> str:
        """Return the name of the data set for messages."""
        return self.location or str(self.folder)

    @property
    def split_names(self) -> list[str]:
        """Return the names of the splits."""
        return [split.name for split in self.splits]

    def split(self, name: str) -> Split:
        """Return a split by name. Raises DataError with the names there are."""
        for split in self.splits:
            if split.name == name:
                return split
        raise DataError(f"{self.shown}: has no split {name!r}, only {', '.join(self.split_names) or 'none'}")


def read_dataset(folder: Path) -> Dataset:
    """Read dataset.json. Raises DataError that says how to make one."""
    file = folder / FILE_NAME
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder. `megabatch data import IMAGES {folder}` makes a data set of images, "
            "`megabatch data example IMAGES` writes some to try with"
        )
    if not file.is_file():
        raise DataError(
            f"{file}: missing. `megabatch data index {folder}` makes it for existing shards, "
            f"`megabatch data import IMAGES OUT` for images"
        )
    try:
        text = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None
    return parse_dataset(text, folder, str(folder))


def parse_dataset(text: bytes, folder: Path, shown_folder: str) -> Dataset:
    """Return what the content of a dataset.json describes. Raises DataError that names it in `shown_folder`."""
    try:
        values = json.loads(text.decode())
        if values["format"] != _FORMAT:
            raise _DamageError(f"format {values['format']!r}, but this version of megabatch reads {_FORMAT!r}")
        if not isinstance(values["classes"], list):
            raise _DamageError("classes that are no list")
        classes = tuple(_text(name) for name in values["classes"])
        splits = tuple(_split(name, split) for name, split in values["splits"].items())
        _require_distinct_shards(splits)
        return Dataset(folder, classes, splits, imported=values.get("imported") is True)
    except KeyError as error:
        seen = f"has no {error}"
    except _DamageError as error:
        seen = str(error)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        seen = f"no description of a data set ({type(error).__name__}: {error})"
    raise DataError(f"{shown_folder}/{FILE_NAME}: {seen}. `megabatch data index {shown_folder}` makes it anew")


class _DamageError(Exception):
    """What is wrong inside a dataset.json."""


def _split(name: str, values: dict[str, Any]) -> Split:
    counts = {_label(label): _count(count) for label, count in values["label_counts"].items()}
    split = Split(name, tuple(_shard(shard) for shard in values["shards"]), counts)
    if counts and sum(counts.values()) != split.samples:
        raise _DamageError(f"split {name!r} has {split.samples:,} samples, but {sum(counts.values()):,} labels")
    return split


def _shard(values: dict[str, Any]) -> Shard:
    file = _text(values["file"])
    if not file or Path(file).is_absolute() or ".." in Path(file).parts or "\0" in file:
        raise _DamageError(f"shard {file!r} is no file inside the folder")
    return Shard(file, _count(values["samples"]), _count(values["bytes"]), _text(values["sha256"]))


def _require_distinct_shards(splits: tuple[Split, ...]) -> None:
    counts = Counter(shard.file for split in splits for shard in split.shards)
    twice = [file for file, count in counts.items() if count > 1]
    if twice:
        raise _DamageError(f"shard {twice[0]!r} comes twice")


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise _DamageError(f"{value!r} where a count must be")
    return value


def _label(text: str) -> int:
    if not (text.isascii() and text.removeprefix("-").isdigit()):
        raise _DamageError(f"{text!r} where a label must be")
    return int(text)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _DamageError(f"{value!r} where a text must be")
    return value


def described(dataset: Dataset) -> str:
    """Return the content of dataset.json."""
    splits = {
        split.name: {
            "samples": split.samples,
            "label_counts": {str(label): count for label, count in sorted(split.label_counts.items())},
            "shards": [{key: value for key, value in asdict(shard).items() if key != "url"} for shard in split.shards],
        }
        for split in dataset.splits
    }
    classes = list(dataset.classes)
    values = {"format": _FORMAT, "imported": dataset.imported, "classes": classes, "splits": splits}
    return json.dumps(values, indent=1)


def write_dataset(dataset: Dataset) -> None:
    """Write dataset.json; it is there whole or not at all."""
    hidden = dataset.folder / f".{FILE_NAME}.{os.getpid()}"
    try:
        with open_new(hidden) as file:
            file.write(described(dataset))
            file.flush()
            os.fsync(file.fileno())
        hidden.rename(dataset.folder / FILE_NAME)
    finally:
        hidden.unlink(missing_ok=True)


def missing_or_changed_shards(dataset: Dataset, splits: Iterable[str]) -> list[str]:
    """Return one message for each shard that is missing, has another size than recorded, or has no index.

    Shards of a URL are not asked for: each is compared with its checksum when it is loaded.
    """
    problems = []
    for shard in (shard for name in splits for shard in dataset.split(name).shards):
        location, index = shard.location(dataset.folder), (dataset.folder / shard.file).with_suffix(".idx")
        path = Path(location)
        if is_remote(location):
            continue
        if not path.is_file():
            problems.append(
                f"{path}: missing. Copy it back, or make dataset.json anew: megabatch data index {dataset.shown}"
            )
        elif path.stat().st_size != shard.bytes:
            problems.append(
                f"{path}: {path.stat().st_size:,} bytes, dataset.json recorded {shard.bytes:,}: the shard was cut or "
                f"changed. Copy it again, or index it anew: megabatch data index {dataset.shown}"
            )
        elif not index.is_file():
            problems.append(f"{index}: missing. Make it with: megabatch data index {dataset.shown}")
    return problems


def fingerprint(dataset: Dataset) -> str:
    """Return the SHA-256 of the classes and of every shard's checksum: the same data, wherever it lies."""
    digest = hashlib.sha256(json.dumps(dataset.classes).encode())
    for split in dataset.splits:
        digest.update(json.dumps([split.name, [shard.sha256 for shard in split.shards]]).encode())
    return digest.hexdigest()
