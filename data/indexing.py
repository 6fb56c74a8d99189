"""Existing shards to a data set, and a data set checked byte by byte. Knows how shards are named, not who made them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from megabatch.data.dataset import Dataset, Shard, Split, write_dataset
from megabatch.data.decode import decode_image
from megabatch.data.errors import DataError
from megabatch.data.importer import SPLIT_ORDER, Progress, describe_shard, sha256_of
from megabatch.data.read import SplitReader
from megabatch.data.tar_index import index_tar, read_index, sample_table

_SHARD_NAME = re.compile(r"^(?P<split>[A-Za-z].*?)(?:[-_.]?(?P<number>\d+))?\.tar$")
_MOST_PIXELS = 100_000_000  # as data.max_image_pixels unless a recipe says otherwise
_MOST_CLASSES = 1_000_000  # a larger label is no class
_SAME_SPLIT = {"val": "validation", "valid": "validation"}


def index_shards(folder: Path, classes_file: Path | None, progress: Progress) -> Dataset:
    """Write .idx files and dataset.json for the .tar files of a folder.

    The split is the file name up to its number: train-000000.tar. Class names come from `classes_file` or
    classes.txt, one a line; without either they are the numbers.
    """
    tars = sorted(folder.glob("*.tar"), key=split_and_number)
    if not tars:
        raise DataError(
            f"{folder}: no .tar files in it. `megabatch data import IMAGES {folder}` makes shards of images"
        )
    shards: dict[str, list[Shard]] = defaultdict(list)
    for number, path in enumerate(tars):
        shards[split_and_number(path)[0]].append(describe_shard(path))
        progress(number + 1, len(tars))
    splits = [_with_labels(folder, name, tuple(members)) for name, members in shards.items()]
    splits.sort(key=lambda split: SPLIT_ORDER.index(split.name) if split.name in SPLIT_ORDER else len(SPLIT_ORDER))
    classes = _class_names(folder, classes_file, max(split.label_range()[1] for split in splits))
    dataset = Dataset(folder, classes, tuple(splits))
    write_dataset(dataset)
    return dataset


def split_and_number(path: Path) -> tuple[str, int, str]:
    """Return what shards are sorted by: train-2.tar comes before train-10.tar."""
    match = _SHARD_NAME.match(path.name)
    if not match:
        raise DataError(f"{path}: the split cannot be told from the name: call shards train-000000.tar")
    return _SAME_SPLIT.get(match["split"], match["split"]), int(match["number"] or 0), path.name


def _with_labels(folder: Path, name: str, shards: tuple[Shard, ...]) -> Split:
    reader = SplitReader(folder, Split(name, shards, {}))
    counts = Counter(reader.read(sample_id).label for sample_id in range(reader.samples))
    if not counts:
        raise DataError(f"{folder}: the shards of split {name!r} have no samples: remove them, or copy them again")
    return Split(name, shards, dict(counts))


def _class_names(folder: Path, classes_file: Path | None, largest_label: int) -> tuple[str, ...]:
    file = classes_file or folder / "classes.txt"
    if classes_file is None and not file.exists():
        if largest_label >= _MOST_CLASSES:
            raise DataError(
                f"{folder}: the largest label is {largest_label:,}, which is no class: correct the .cls members"
            )
        return tuple(str(number) for number in range(largest_label + 1))
    return read_class_names(file)


def read_class_names(file: Path) -> tuple[str, ...]:
    """Return the class names of a file, one a line. Raises DataError for an empty line, or what is no text."""
    try:
        names = tuple(line.strip() for line in file.read_text(encoding="utf-8").rstrip().splitlines())
        if "" in names:
            raise DataError(f"{file}:{names.index('') + 1}: an empty line would shift every class after it: remove it")
        return names
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as a list of class names, one a line: {error}") from None


def verify(dataset: Dataset, progress: Progress, decode: bool = False) -> list[str]:
    """Read every byte of every shard, and with `decode` every image; return one message for each fault found."""
    shards = [shard for split in dataset.splits for shard in split.shards]
    problems: list[str] = []
    for number, shard in enumerate(shards):
        try:
            _verify_shard(dataset.folder, shard)
            problems += _broken_images(dataset.folder, shard) if decode else []
        except DataError as error:
            problems.append(str(error))
        progress(number + 1, len(shards))
    return problems


def _verify_shard(folder: Path, shard: Shard) -> None:
    path = folder / shard.file
    if not path.is_file():
        raise DataError(f"{path}: missing. Copy it back")
    samples = index_tar(path)
    sample_table(samples, str(path))
    if sha256_of(path) != shard.sha256:
        raise DataError(f"{path}: the bytes differ from those recorded in dataset.json (SHA-256). Copy the shard again")
    if samples != read_index(path.with_suffix(".idx")):
        raise DataError(
            f"{path.with_suffix('.idx')}: does not fit the shard. Make it with: megabatch data index {folder}"
        )


def _broken_images(folder: Path, shard: Shard) -> list[str]:
    reader = SplitReader(folder, Split("", (shard,), {}))

    def problem(sample_id: int) -> str | None:
        sample = reader.read(sample_id)
        try:
            decode_image(sample.image, _MOST_PIXELS)
        except ValueError as error:
            return f"{folder / shard.file}: sample {sample.key}: {error}"
        return None

    with ThreadPoolExecutor() as pool:
        return [found for found in pool.map(problem, range(shard.samples)) if found is not None]
