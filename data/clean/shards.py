"""Which shards there are. Works without dataset.json too: shards with broken labels cannot be indexed."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

from megabatch.data.dataset import FILE_NAME, read_dataset
from megabatch.data.errors import DataError
from megabatch.data.importer import CLASSES_NAME, SPLIT_ORDER
from megabatch.data.indexing import read_classes
from megabatch.data.sources.shards import in_order, listed


@dataclass(frozen=True)
class Shards:
    """The shards of a folder as (split, file name), train first. Without class names `classes` is None."""

    folder: Path
    files: tuple[tuple[str, str], ...]
    classes: tuple[str, ...] | None
    indexed: bool

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits, in order."""
        return tuple(dict.fromkeys(split for split, _ in self.files))


def find_shards(folder: Path) -> Shards:
    """Return the shards that dataset.json lists, or without one every .tar file of the folder. Raises DataError."""
    if (folder / FILE_NAME).is_file() or not folder.is_dir():
        dataset = read_dataset(folder)
        if any(split.samples and not split.has_classes for split in dataset.splits):
            raise DataError(
                f"{folder}: its samples have no .cls but another target, and every one would be called unlabelled: "
                "`megabatch data verify --decode` finds broken images in it"
            )
        files = [(split.name, shard.file) for split in dataset.splits for shard in split.shards]
        return Shards(folder, _by_split(files), dataset.classes, indexed=True)
    tars = in_order(listed(str(path)) for path in folder.glob("*.tar"))
    if not tars:
        raise DataError(f"{folder}: neither {FILE_NAME} nor .tar files in it: give the folder of a data set")
    files = [(tar.split, Path(tar.place).name) for tar in tars]
    classes = read_classes(folder / CLASSES_NAME)
    return Shards(folder, _by_split(files), classes, indexed=False)


def _by_split(files: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Sort train, validation and test to the front: the first of two equal images is then the one in train."""
    rank = {name: number for number, name in enumerate(SPLIT_ORDER)}
    return tuple(sorted(files, key=lambda file: (rank.get(file[0], len(rank)), file[0])))


def size_of(path: Path) -> int:
    """Return how many bytes a shard has. Raises DataError if it is missing."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}. Copy the shard back") from None


def open_shard(path: Path) -> memoryview:
    """Return the bytes of a shard, mapped into memory. Raises DataError."""
    try:
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be opened: {error}. Was it moved or emptied?") from None
