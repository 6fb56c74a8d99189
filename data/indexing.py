"""Existing shards to a data set, and a data set checked byte by byte. Knows how shards are named, not who made them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING

from megabatch.data.dataset import Dataset, Shard, Split, write_dataset
from megabatch.data.decode import decode_image
from megabatch.data.errors import DataError
from megabatch.data.importer import Progress, sha256_of
from megabatch.data.read import NO_LABEL, SplitReader
from megabatch.data.sources.places import is_remote, visible
from megabatch.data.sources.shards import ListedShard, file_names, in_order, listed
from megabatch.data.tar_index import index_tar, read_index, sample_table, write_index

if TYPE_CHECKING:
    from megabatch.data.sources.cache import ShardCache

_MOST_PIXELS = 100_000_000  # as data.max_image_pixels unless a recipe says otherwise
_MOST_CLASSES = 1_000_000  # a larger label is no class
_THREADS = 4  # reading headers holds the interpreter, checksums and downloads do not


def index_shards(folder: Path, classes_file: Path | None, progress: Progress) -> Dataset:
    """Write .idx files and dataset.json for the .tar files of a folder.

    The split is the file name up to its number: train-000000.tar. Class names come from `classes_file` or
    classes.txt, one a line; without either they are the numbers.
    """
    shards = [listed(str(path)) for path in folder.glob("*.tar")]
    if not shards:
        raise DataError(
            f"{folder}: no .tar files in it. `megabatch data import IMAGES {folder}` makes shards of images"
        )
    return index_listed(
        shards, folder, read_classes(classes_file or folder / "classes.txt", classes_file is not None), progress
    )


def index_listed(
    shards: Iterable[ListedShard],
    folder: Path,
    classes: tuple[str, ...] | None,
    progress: Progress,
    cache: ShardCache | None = None,
) -> Dataset:
    """Write .idx files and dataset.json into `folder` for shards that may lie elsewhere; `cache` loads those of URLs.

    Without `classes` they are the numbers, and none where no sample has a .cls. dataset.json is written last, so it is
    there only if all is well.
    """
    ordered = in_order(shards)
    described = _described_all(ordered, folder, cache, progress)
    splits = tuple(_split(name, members, described, cache) for name, members in _by_split(ordered).items())
    if classes is None:
        classes = _numbered_classes(folder, max((s.label_range()[1] for s in splits if s.has_classes), default=-1))
    dataset = Dataset(folder, classes, splits)
    write_dataset(dataset)
    return dataset


def _by_split(ordered: list[ListedShard]) -> dict[str, list[ListedShard]]:
    splits: dict[str, list[ListedShard]] = defaultdict(list)
    for shard in ordered:
        splits[shard.split].append(shard)
    return splits


_Described = dict[str, tuple[Shard, Counter[int]]]  # by place


def _described_all(
    ordered: list[ListedShard], folder: Path, cache: ShardCache | None, progress: Progress
) -> _Described:
    described: _Described = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        futures = {
            pool.submit(_described, shard, folder, name, cache): shard
            for shard, name in zip(ordered, file_names(ordered), strict=True)
        }
        try:
            for future in as_completed(futures):
                described[futures[future].place] = future.result()
                progress(len(described), len(futures))
        finally:
            pool.shutdown(cancel_futures=True)
    return described


def _described(
    listed_shard: ListedShard, folder: Path, name: str, cache: ShardCache | None
) -> tuple[Shard, Counter[int]]:
    """Return the entry of a shard for dataset.json and how often each label occurs; write its index."""
    place = listed_shard.place
    if is_remote(place):
        assert cache is not None
        shard = cache.load_unknown(place, name)
    else:
        shard = _described_path(Path(place), folder, name)
    if listed_shard.samples not in (None, shard.samples):
        raise DataError(
            f"{visible(place)}: has {shard.samples:,} samples, but the list of shards says {listed_shard.samples:,}: "
            "the shard was cut or the list is old. Copy the shard again, or correct the list"
        )
    reader = SplitReader(folder, Split("", (shard,), {}, cache))
    labels = Counter(reader.read(sample_id).label for sample_id in range(reader.samples))
    return shard, Counter() if set(labels) == {NO_LABEL} else labels


def _described_path(path: Path, folder: Path, name: str) -> Shard:
    samples = index_tar(path)
    sample_table(samples, str(path))
    write_index(samples, (folder / name).with_suffix(".idx"))
    url = "" if path.parent == folder else str(path)
    return Shard(name, len(samples), path.stat().st_size, sha256_of(path), url)


def _split(name: str, members: list[ListedShard], described: _Described, cache: ShardCache | None) -> Split:
    counts: Counter[int] = Counter()
    for member in members:
        counts += described[member.place][1]
    split = Split(name, tuple(described[member.place][0] for member in members), dict(counts), cache)
    if not split.samples:
        raise DataError(
            f"{visible(members[0].place)}: the shards of split {name!r} have no samples: remove them, or copy them "
            "again"
        )
    if split.has_classes and sum(counts.values()) < split.samples:
        entries = ((member, *described[member.place]) for member in members)
        without = next(member for member, shard, labels in entries if shard.samples and not labels)
        raise DataError(
            f"{visible(without.place)}: no sample has a .cls, but those in other shards of split {name!r} have one: "
            "give all of them one, or none"
        )
    return split


def read_classes(file: Path, required: bool = False) -> tuple[str, ...] | None:
    """Return the class names of a file, one a line; None if there is none and it is not required."""
    if not required and not file.exists():
        return None
    try:
        return parse_classes(file.read_bytes(), str(file))
    except OSError as error:
        raise DataError(f"{file}: cannot be read as a list of class names, one a line: {error}") from None


def parse_classes(content: bytes, shown: str) -> tuple[str, ...]:
    """Return class names, one a line. Raises DataError for an empty line or what is no text."""
    try:
        names = tuple(line.strip() for line in content.decode().rstrip().splitlines())
    except UnicodeDecodeError as error:
        raise DataError(f"{shown}: cannot be read as a list of class names, one a line: {error}") from None
    if "" in names:
        raise DataError(f"{shown}:{names.index('') + 1}: an empty line would shift every class after it: remove it")
    return names


def _numbered_classes(folder: Path, largest_label: int) -> tuple[str, ...]:
    if largest_label >= _MOST_CLASSES:
        raise DataError(
            f"{folder}: the largest label is {largest_label:,}, which is no class: correct the .cls members"
        )
    return tuple(str(number) for number in range(largest_label + 1))


def verify(dataset: Dataset, progress: Progress, decode: bool = False) -> list[str]:
    """Read every byte of every shard, and with `decode` every image; return one message for each fault found."""
    shards = [(split, shard) for split in dataset.splits for shard in split.shards]
    problems: list[str] = []
    for number, (split, shard) in enumerate(shards):
        try:
            _verify_shard(dataset, split, shard)
            problems += _broken_images(dataset.folder, split, shard) if decode else []
        except DataError as error:
            problems.append(str(error))
        progress(number + 1, len(shards))
    return problems


def _verify_shard(dataset: Dataset, split: Split, shard: Shard) -> None:
    location = shard.location(dataset.folder)
    if split.cache is not None and is_remote(location):
        split.cache.table(shard)  # it was compared with its checksum when it was loaded
        return
    path, index = Path(location), (dataset.folder / shard.file).with_suffix(".idx")
    if not path.is_file():
        raise DataError(f"{path}: missing. Copy it back")
    samples = index_tar(path)
    sample_table(samples, str(path))
    if sha256_of(path) != shard.sha256:
        raise DataError(f"{path}: the bytes differ from those recorded in dataset.json (SHA-256). Copy the shard again")
    if samples != read_index(index):
        raise DataError(f"{index}: does not fit the shard. Make it with: megabatch data index {dataset.shown}")


def _broken_images(folder: Path, split: Split, shard: Shard) -> list[str]:
    reader = SplitReader(folder, Split("", (shard,), {}, split.cache))

    def problem(sample_id: int) -> str | None:
        sample = reader.read(sample_id)
        try:
            decode_image(sample.image, _MOST_PIXELS)
        except ValueError as error:
            return f"{sample.where}: {error}"
        return None

    with ThreadPoolExecutor() as pool:
        return [found for found in pool.map(problem, range(shard.samples)) if found is not None]
