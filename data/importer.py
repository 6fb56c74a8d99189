"""Images to shards: class folders in, train-000000.tar + .idx + dataset.json out. Bytes are stored as they are.

The same images, options and seed give the same bytes. Shards are written in a hidden folder and moved at the end, and
dataset.json comes last, so an import that was interrupted is not taken for a data set.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from megabatch.data.dataset import FILE_NAME, Dataset, Shard, Split, read_dataset, write_dataset
from megabatch.data.errors import DataError
from megabatch.data.formats import NAMES, format_of
from megabatch.data.hashing import key, permutation
from megabatch.data.image_sources import ImageSource, SourceImage, list_images, open_source, shown
from megabatch.data.stratify import stratify
from megabatch.data.tar_index import index_tar, sample_table, write_index

Progress = Callable[[int, int], None]  # (done, total)
CLASSES_NAME = "classes.txt"
SPLIT_ORDER = ("train", "validation", "test")
_SHUFFLE = 5  # what a key is for
_STAGING = ".megabatch-import-"
_MEMBERS_OVERHEAD_BYTES = 4096  # two headers, the label, padding, extended headers for a long name
_NOT_IN_A_KEY = re.compile(r"[\s.\x00-\x1f\x7f\ud800-\udfff]+")  # dots end a key, spaces a field of the index


@dataclass(frozen=True)
class ImportOptions:
    """How images become shards. `fractions` splits what lies in train, by class."""

    fractions: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    samples_per_shard: int = 1000
    max_shard_bytes: int = 128 << 20
    skip_broken: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Imported:
    """The data set, and what was left out of it."""

    dataset: Dataset
    broken: tuple[str, ...]
    ignored_files: int


@dataclass(frozen=True)
class _Entry:
    path: str
    key: str
    label: int
    stored_bytes: int


def import_images(source: Path, out: Path, options: ImportOptions, progress: Progress) -> Imported:
    """Write the images of `source` as shards into `out`. `progress` goes through the images twice: check, then write.

    Raises DataError before anything is written where it can.
    """
    require_room(out, options.overwrite)
    with open_source(source) as opened:
        listing = list_images(opened, str(source))
        broken = _broken_images(opened, listing.images, progress)
        if broken and (not options.skip_broken or len(broken) == len(listing.images)):
            raise DataError(_broken_message(source, broken))
        left_out = set(broken)
        images = [image for image in listing.images if image.path not in left_out]
        classes = _classes(images, source)
        if options.fractions:
            images = stratify(images, options.fractions, options.seed, str(source))
        entries = _entries(opened, images, classes)
        _require_disk_space(out, entries)
        dataset = _write(opened, entries, classes, out, options, progress)
    return Imported(dataset, tuple(broken), listing.ignored_files)


def require_room(out: Path, overwrite: bool = False) -> None:
    """Refuse a folder with anything in it, unless an earlier import wrote it and may be replaced."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file: give a folder for the shards")
    if not out.exists() or all(file.name.startswith(_STAGING) for file in out.iterdir()):
        return
    if not overwrite:
        raise DataError(f"{out}: is not an empty folder: choose another, or replace an earlier import with --overwrite")
    if not (out / FILE_NAME).is_file():
        raise DataError(
            f"{out}: --overwrite replaces an earlier import, and without {FILE_NAME} nothing in it is known to be one: "
            "empty the folder yourself, or choose another"
        )
    if not read_dataset(out).imported:
        raise DataError(
            f"{out}: --overwrite replaces an earlier import, but these shards were only indexed, so they may be the "
            "only copy: choose another folder"
        )


def _classes(images: Iterable[SourceImage], source: Path) -> tuple[str, ...]:
    by_split: dict[str, set[str]] = defaultdict(set)
    for image in images:
        by_split[image.split].add(image.class_name)
    known = by_split.get("train", set().union(*by_split.values()))
    for split, names in sorted(by_split.items()):
        unknown = sorted(names - known)
        if unknown:
            raise DataError(
                f"{source}: {split} has {len(unknown):,} classes that train has not ({shown(unknown)}), so they could "
                "not be learned: add images of them to train, or remove them"
            )
    return tuple(sorted(known))


def _broken_images(source: ImageSource, images: tuple[SourceImage, ...], progress: Progress) -> list[str]:
    """Return the paths of the files whose first bytes are of no image."""
    broken = []
    for number, image in enumerate(images):
        if format_of(source.head(image.path)) is None:
            broken.append(image.path)
        progress(number + 1, len(images))
    return broken


def _broken_message(source: Path, broken: list[str]) -> str:
    seen = f"{source}: {len(broken):,} files are no {NAMES} image (--skip-broken leaves them out)"
    return f"{seen}:\n  " + shown(broken, "\n  ")


def _entries(source: ImageSource, images: Iterable[SourceImage], classes: tuple[str, ...]) -> dict[str, list[_Entry]]:
    """Return what each split holds, in order and sorted by path; keys are CLASS/STEM, unique over the data set."""
    label = {name: number for number, name in enumerate(classes)}
    used: set[str] = set()
    result: dict[str, list[_Entry]] = defaultdict(list)
    for image in sorted(images, key=lambda image: (_split_rank(image.split), image.split, image.path)):
        base = f"{_safe(image.class_name)}/{_safe(PurePosixPath(image.name).stem)}"
        unique, number = base, 1
        while unique in used:
            number += 1
            unique = f"{base}_{number}"
        used.add(unique)
        stored_bytes = source.size(image.path) + _MEMBERS_OVERHEAD_BYTES
        result[image.split].append(_Entry(image.path, unique, label[image.class_name], stored_bytes))
    return result


def _split_rank(name: str) -> int:
    return SPLIT_ORDER.index(name) if name in SPLIT_ORDER else len(SPLIT_ORDER)


def _safe(name: str) -> str:
    """webdataset passes over members whose names begin with two underscores, so none does."""
    return re.sub("^__+", "_", _NOT_IN_A_KEY.sub("_", name))


def _require_disk_space(out: Path, entries: dict[str, list[_Entry]]) -> None:
    needed = sum(entry.stored_bytes for members in entries.values() for entry in members)
    existing = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise DataError(f"{out}: needs about {needed:,} bytes, the disk has {free:,} free: choose another disk")


def _write(
    source: ImageSource,
    entries: dict[str, list[_Entry]],
    classes: tuple[str, ...],
    out: Path,
    options: ImportOptions,
    progress: Progress,
) -> Dataset:
    return write_folder(out, classes, lambda folder: _write_splits(source, entries, folder, options, progress))


def write_folder(out: Path, classes: tuple[str, ...], write_splits: Callable[[Path], tuple[Split, ...]]) -> Dataset:
    """Let `write_splits` fill a hidden folder with shards, then move all into `out`: it is a data set whole or not."""
    out.mkdir(parents=True, exist_ok=True)
    for left_over in out.glob(f"{_STAGING}*"):
        shutil.rmtree(left_over)
    staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=out))
    try:
        splits = write_splits(staging)
        (staging / CLASSES_NAME).write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
        _move_in(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    dataset = Dataset(out, classes, splits, imported=True)
    write_dataset(dataset)
    return dataset


def _move_in(staging: Path, out: Path) -> None:
    """Remove what an earlier import wrote, and nothing else; then put the new files in its place."""
    replaced: set[Path] = set()
    if (out / FILE_NAME).is_file():
        shards = [out / shard.file for split in read_dataset(out).splits for shard in split.shards]
        replaced = {*shards, *(path.with_suffix(".idx") for path in shards), out / CLASSES_NAME}
    for file in staging.iterdir():
        if (out / file.name).exists() and out / file.name not in replaced:
            raise DataError(f"{out / file.name}: no earlier import wrote it, so it is not replaced: move it away")
    (out / FILE_NAME).unlink(missing_ok=True)  # from here on there is no data set, until the new one is whole
    for path in replaced:
        path.unlink(missing_ok=True)
    for file in staging.iterdir():
        file.rename(out / file.name)


def _write_splits(
    source: ImageSource, entries: dict[str, list[_Entry]], folder: Path, options: ImportOptions, progress: Progress
) -> tuple[Split, ...]:
    total = sum(map(len, entries.values()))
    done = iter(range(1, total + 1))
    splits = []
    for number, (name, members) in enumerate(entries.items()):
        order = permutation(key(options.seed, _SHUFFLE, number), len(members))
        shards: list[Shard] = []
        for part in _parts([members[i] for i in order], options):
            path = folder / f"{name}-{len(shards):06d}.tar"
            shards.append(write_shard(path, _stored(source, part), lambda: progress(next(done), total)))
        splits.append(Split(name, tuple(shards), dict(Counter(entry.label for entry in members))))
    return tuple(splits)


def _parts(entries: list[_Entry], options: ImportOptions) -> Iterator[list[_Entry]]:
    """Yield the entries of one shard after the other."""
    part: list[_Entry] = []
    part_bytes = 0
    for entry in entries:
        full = len(part) == options.samples_per_shard or part_bytes + entry.stored_bytes > options.max_shard_bytes
        if part and full:
            yield part
            part, part_bytes = [], 0
        part.append(entry)
        part_bytes += entry.stored_bytes
    if part:
        yield part


def _stored(source: ImageSource, entries: Iterable[_Entry]) -> Iterator[dict[str, str | bytes]]:
    for entry in entries:
        payload = source.read(entry.path)
        image_format = format_of(payload)
        if image_format is None:
            raise DataError(f"{entry.path}: changed while it was imported: import again")
        yield {"__key__": entry.key, image_format.extensions[0]: payload, "cls": str(entry.label).encode()}


def write_shard(path: Path, samples: Iterable[dict[str, str | bytes]], written: Callable[[], None]) -> Shard:
    """Write a shard and its index. A sample is `__key__` and the bytes of its members by extension."""
    from webdataset import TarWriter  # imports torch

    with path.open("wb") as file:
        with TarWriter(file, encoder=False, mtime=0, user="megabatch", group="megabatch") as tar:
            for sample in samples:
                tar.write(sample)
                written()
        file.flush()
        os.fsync(file.fileno())
    return describe_shard(path)


def describe_shard(path: Path) -> Shard:
    """Index a shard, write its .idx, and return its entry for dataset.json."""
    samples = index_tar(path)
    sample_table(samples, str(path))
    write_index(samples, path.with_suffix(".idx"))
    return Shard(path.name, len(samples), path.stat().st_size, sha256_of(path))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
