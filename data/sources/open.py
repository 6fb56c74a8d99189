"""What `data.path` names, opened: a folder or a spec of shards, on this machine or elsewhere, becomes a Dataset.

A dataset.json beside the shards is taken as it is. Without one the shards are indexed on first use. The description
then lies beside the shards if `data.path` is a folder that can be written; otherwise in the cache folder, because one
for some of the shards of a folder would be taken for all of them by the next reader.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

from megabatch.configs.cache import Cache
from megabatch.data.dataset import FILE_NAME, Dataset, Shard, Split, parse_dataset, read_dataset
from megabatch.data.errors import DataError
from megabatch.data.importer import Progress
from megabatch.data.indexing import index_listed, index_shards, parse_classes, read_classes
from megabatch.data.sources.cache import ShardCache
from megabatch.data.sources.download import read_small
from megabatch.data.sources.listing import folder_shards, spec_shards
from megabatch.data.sources.locks import locked_folder
from megabatch.data.sources.places import divided, is_remote, joined, parent_of, place_of, visible
from megabatch.data.sources.remote import MissingError, NotAllowedError
from megabatch.data.sources.shards import ListedShard, file_names, in_order
from megabatch.data.sources.spec import names_a_file, places_in

_CLASSES = "classes.txt"


def open_dataset(location: str, working_folder: Path, cache: Cache, progress: Progress) -> Dataset:
    """Open what `data.path` names: a relative path starts at `working_folder`.

    `progress` is called if shards have to be indexed first, which reads all of them. Safe for many processes at
    once: one of them indexes. Raises DataError with what is wrong and what to do.
    """
    shard_cache = ShardCache(cache)
    folder = _existing_folder(location, working_folder)
    places = [] if folder is not None else places_in(location, working_folder)
    if folder is None and len(places) == 1 and not names_a_file(places[0]):
        folder = places[0]
    if folder is not None:
        dataset = _open_folder(folder, shard_cache, progress)
    else:
        dataset = _open_listed(spec_shards(places, cache), shard_cache, progress)
    return replace(dataset, location=visible(location))


def index_dataset(
    location: str, working_folder: Path, cache: Cache, progress: Progress, classes_file: Path | None = None
) -> Dataset:
    """Index the shards of a location anew: beside them if it is a folder of this machine, else in the cache folder.

    Class names come from `classes_file` or the classes.txt beside the shards; without either they are the numbers.
    """
    folder = _existing_folder(location, working_folder)
    if folder is not None:
        return index_shards(Path(folder), classes_file, progress)
    classes = read_classes(classes_file, required=True) if classes_file else None
    places = places_in(location, working_folder)
    is_spec = len(places) > 1 or names_a_file(places[0])
    if not is_spec and not is_remote(places[0]):
        raise DataError(f"{visible(location)}: no such folder of shards. Correct it, or name the shards")
    shards = spec_shards(places, cache) if is_spec else folder_shards(places[0], cache)
    dataset = _open_listed(shards, ShardCache(cache), progress, anew=True, classes=classes)
    return replace(dataset, location=visible(location))


def _existing_folder(location: str, working_folder: Path) -> str | None:
    """Return a folder that really has braces or a star in its name, and every other one."""
    if len(divided(location)) > 1:
        return None
    place = place_of(location, working_folder)
    return place if not is_remote(place) and Path(place).is_dir() else None


def _open_folder(place: str, cache: ShardCache, progress: Progress) -> Dataset:
    if is_remote(place):
        return _open_remote_folder(place, cache, progress)
    folder = Path(place)
    if not folder.is_dir() or (folder / FILE_NAME).is_file():
        return read_dataset(folder)
    shards = folder_shards(place, cache.settings)
    if not shards:
        return read_dataset(folder)  # tells how to make one
    if not _can_write(folder) or any(Path(shard.place).parent != folder for shard in shards):
        return _open_listed(shards, cache, progress)
    with locked_folder(folder):
        if not (folder / FILE_NAME).is_file():
            index_listed(shards, folder, read_classes(folder / _CLASSES), progress)
    return read_dataset(folder)


def _can_write(folder: Path) -> bool:
    return os.access(folder, os.W_OK)


def _open_remote_folder(place: str, cache: ShardCache, progress: Progress) -> Dataset:
    try:
        content = read_small(joined(place, FILE_NAME), cache.settings)
    except MissingError:
        return _open_listed(folder_shards(place, cache.settings), cache, progress)
    dataset = parse_dataset(content, _folder_of(cache, place), visible(place))
    urls = {shard.file: joined(place, shard.file) for split in dataset.splits for shard in split.shards}
    return _with_places(dataset, urls, cache)


def _open_listed(
    shards: list[ListedShard],
    cache: ShardCache,
    progress: Progress,
    anew: bool = False,
    classes: tuple[str, ...] | None = None,
) -> Dataset:
    """Return the data set of shards that are described in the cache folder, or will be after this."""
    ordered = in_order(shards)
    folder = _folder_of(cache, json.dumps([_state_of(shard) for shard in ordered] + _classes_state(ordered)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked_folder(folder):
            if anew or not (folder / FILE_NAME).is_file():
                index_listed(ordered, folder, classes or _classes_beside(ordered, cache.settings), progress, cache)
    except OSError as error:
        raise DataError(
            f"{folder}: the index of the shards cannot be written: {error.strerror or error}. "
            "Set cluster.cache.folder to a folder of yours on a disk with room"
        ) from None
    places = {name: shard.place for name, shard in zip(file_names(ordered), ordered, strict=True)}
    return _with_places(read_dataset(folder), places, cache)


def _folder_of(cache: ShardCache, text: str) -> Path:
    return cache.folder / "datasets" / hashlib.sha256(text.encode()).hexdigest()[:32]


def _state_of(shard: ListedShard) -> list[object]:
    """Return what an index of a shard depends on. One of a URL is compared with its checksum when it is loaded."""
    if is_remote(shard.place):
        return [*shard]
    found = Path(shard.place).stat()
    return [*shard, found.st_size, found.st_mtime_ns]


def _classes_state(shards: list[ListedShard]) -> list[object]:
    files = [Path(joined(folder, _CLASSES)) for folder in _folders(shards) if not is_remote(folder)]
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()]


def _classes_beside(shards: list[ListedShard], settings: Cache) -> tuple[str, ...] | None:
    """Return the class names from the first folder that has a classes.txt beside the shards, or None."""
    for folder in _folders(shards):
        place = joined(folder, _CLASSES)
        if not is_remote(folder):
            classes = read_classes(Path(place))
        else:
            try:
                classes = parse_classes(read_small(place, settings), visible(place))
            except (MissingError, NotAllowedError):
                classes = None
        if classes is not None:
            return classes
    return None


def _folders(shards: list[ListedShard]) -> list[str]:
    return list(dict.fromkeys(parent_of(shard.place) for shard in shards))


def _with_places(dataset: Dataset, places: dict[str, str], cache: ShardCache) -> Dataset:
    """Return the data set with what its description must not say itself: where the shards lie."""

    def placed(shard: Shard) -> Shard:
        return replace(shard, url=places[shard.file])

    splits = tuple(
        Split(split.name, tuple(map(placed, split.shards)), split.label_counts, cache) for split in dataset.splits
    )
    return replace(dataset, splits=splits)
