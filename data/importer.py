"""Images to shards: class folders in, train-000000.tar + .idx + dataset.json out. Bytes are stored as they are.

The same source, options and seed give the same bytes. dataset.json is written last, so an import that was interrupted
is not taken for a data set.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from megabatch.data.dataset import FILE_NAME, Dataset, Shard, Split, read_dataset, write_dataset
from megabatch.data.errors import DataError
from megabatch.data.hashing import key, permutation
from megabatch.data.image_sources import ImageSource, SourceImage, list_images, open_source
from megabatch.data.tar_index import index_tar, sample_table, write_index

Progress = Callable[[int, int], None]
_SHUFFLE = 5  # what a key is for
_SIGNATURES = {b"\xff\xd8\xff": "jpg", b"\x89PNG\r\n\x1a\n": "png"}
_SHOWN = 10
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class ImportOptions:
    """How images become shards. `fractions` splits what lies in train, by class."""

    fractions: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    samples_per_shard: int = 1000
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


def import_images(source: Path, out: Path, options: ImportOptions, progress: Progress) -> Imported:
    """Write the images of `source` as shards into `out`. Raises DataError before anything is written where it can."""
    _make_room(out, options.overwrite)
    with open_source(source) as opened:
        listing = list_images(opened, str(source))
        classes = _classes(listing.images)
        images = _split_by_class(listing.images, options, str(source))
        broken = _broken_images(opened, images)
        if broken and not options.skip_broken:
            raise DataError(_broken_message(source, broken))
        good = [image for image in images if image.path not in set(broken)]
        out.mkdir(parents=True, exist_ok=True)
        splits = _write_splits(opened, _entries(good, classes), out, options, progress)
    (out / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    dataset = Dataset(out, classes, splits)
    write_dataset(dataset)
    return Imported(dataset, tuple(broken), listing.ignored_files)


def _make_room(out: Path, overwrite: bool) -> None:
    """Refuse a folder with anything in it, unless an earlier import wrote it and may be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite or not out.is_dir():
        raise DataError(f"{out}: is not an empty folder: choose another, or replace an earlier import with --overwrite")
    earlier = read_dataset(out)
    for shard in (shard for split in earlier.splits for shard in split.shards):
        (out / shard.file).unlink(missing_ok=True)
        (out / shard.file).with_suffix(".idx").unlink(missing_ok=True)
    for name in (FILE_NAME, "classes.txt"):
        (out / name).unlink(missing_ok=True)


def _classes(images: Iterable[SourceImage]) -> tuple[str, ...]:
    by_split: dict[str, set[str]] = defaultdict(set)
    for image in images:
        by_split[image.split].add(image.class_name)
    known = by_split.get("train", set().union(*by_split.values()))
    for split, names in by_split.items():
        if names - known:
            raise DataError(f"{split} has classes that train has not: {', '.join(sorted(names - known)[:_SHOWN])}")
    return tuple(sorted(known))


def _split_by_class(images: tuple[SourceImage, ...], options: ImportOptions, source: str) -> list[SourceImage]:
    """Give the images of train to the asked splits, each class in the same proportions; others stay where they are."""
    if not options.fractions:
        return list(images)
    _check_fractions(options.fractions, {image.split for image in images})
    by_class: dict[str, list[SourceImage]] = defaultdict(list)
    for image in images:
        if image.split == "train":
            by_class[image.class_name].append(image)
    too_few = [name for name, members in by_class.items() if len(members) < len(options.fractions)]
    if too_few:
        raise DataError(
            f"{source}: nothing to stratify: {len(too_few)} classes have fewer images than splits "
            f"({', '.join(too_few[:_SHOWN])}{', ...' if len(too_few) > _SHOWN else ''}): import without --split"
        )
    result = [image for image in images if image.split != "train"]
    for members in by_class.values():
        shuffled = sorted(members, key=lambda image: _hash(options.seed, image.path))
        counts = _shares(len(members), options.fractions)
        names = itertools.chain.from_iterable([name] * counts[name] for name in options.fractions)
        result += [replace(image, split=name) for image, name in zip(shuffled, names, strict=True)]
    return result


def _check_fractions(fractions: dict[str, float], splits: set[str]) -> None:
    if abs(sum(fractions.values()) - 1) > 1e-9 or min(fractions.values()) <= 0:
        raise DataError(f"--split: the shares must be positive and add up to 1, not {sum(fractions.values()):g}")
    taken = (splits - {"train"}) & set(fractions)
    if taken:
        raise DataError(f"--split: the source has its own {', '.join(sorted(taken))}: leave it out of --split")
    if "train" not in splits:
        raise DataError("--split: divides what lies in train, and the source has none")


def _shares(count: int, fractions: dict[str, float]) -> dict[str, int]:
    """Divide `count` in the given proportions: every split gets at least one, the largest remainders get the rest."""
    free = count - len(fractions)
    exact = {name: max(fraction * count - 1, 0.0) for name, fraction in fractions.items()}
    scale = free / total if (total := sum(exact.values())) else 0.0
    shares = {name: int(value * scale + 1e-9) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: shares[name] - exact[name] * scale)
    for name in itertools.islice(itertools.cycle(by_remainder), free - sum(shares.values())):
        shares[name] += 1
    return {name: share + 1 for name, share in shares.items()}


def _hash(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}/{text}".encode()).digest()


def _broken_images(source: ImageSource, images: Iterable[SourceImage]) -> list[str]:
    """Return the paths of the files whose first bytes are of no image."""
    return [image.path for image in images if _image_kind(source.read(image.path)) is None]


def _image_kind(payload: bytes) -> str | None:
    for signature, kind in _SIGNATURES.items():
        if payload.startswith(signature):
            return kind
    return "webp" if payload[:4] == b"RIFF" and payload[8:12] == b"WEBP" else None


def _broken_message(source: Path, broken: list[str]) -> str:
    more = f"\n  and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
    listed = "\n  ".join(broken[:_SHOWN])
    seen = f"{source}: {len(broken)} files are no JPEG, PNG or WebP image (--skip-broken leaves them out)"
    return f"{seen}:\n  {listed}{more}"


def _entries(images: Iterable[SourceImage], classes: tuple[str, ...]) -> dict[str, list[_Entry]]:
    """Return what each split holds, sorted by path; keys are CLASS/STEM, unique over the data set."""
    label = {name: number for number, name in enumerate(classes)}
    used: Counter[str] = Counter()
    result: dict[str, list[_Entry]] = defaultdict(list)
    for image in sorted(images, key=lambda image: (image.split, image.path)):
        base = f"{_safe(image.class_name)}/{_safe(PurePosixPath(image.path).stem)}"
        used[base] += 1
        unique = base if used[base] == 1 else f"{base}_{used[base]}"
        while unique != base and used[unique]:
            unique += "_"
        used[unique] += unique != base
        result[image.split].append(_Entry(image.path, unique, label[image.class_name]))
    return result


def _safe(name: str) -> str:
    """Dots end a key and spaces end a field of the index."""
    return re.sub(r"[\s.]+", "_", name)


def _write_splits(
    source: ImageSource, entries: dict[str, list[_Entry]], out: Path, options: ImportOptions, progress: Progress
) -> tuple[Split, ...]:
    total = sum(map(len, entries.values()))
    written = 0
    splits = []
    for number, (name, members) in enumerate(sorted(entries.items())):
        order = permutation(key(options.seed, _SHUFFLE, number), len(members))
        shuffled = [members[i] for i in order]
        shards: list[Shard] = []
        for first in range(0, len(members), options.samples_per_shard):
            part = shuffled[first : first + options.samples_per_shard]
            shards.append(_write_shard(source, part, out / f"{name}-{len(shards):06d}.tar"))
            written += len(part)
            progress(written, total)
        splits.append(Split(name, tuple(shards), dict(Counter(entry.label for entry in members))))
    return tuple(
        sorted(splits, key=lambda split: list(SPLIT_ORDER).index(split.name) if split.name in SPLIT_ORDER else 9)
    )


SPLIT_ORDER = ("train", "validation", "test")


def _write_shard(source: ImageSource, entries: Iterable[_Entry], path: Path) -> Shard:
    from webdataset import TarWriter  # imports torch

    hidden = path.with_name(f".{path.name}")
    with TarWriter(
        str(hidden), encoder=False, mtime=0, user="megabatch", group="megabatch", format="PAX_FORMAT"
    ) as tar:
        for entry in entries:
            payload = source.read(entry.path)
            tar.write({"__key__": entry.key, _image_kind(payload) or "jpg": payload, "cls": str(entry.label).encode()})
    hidden.rename(path)
    return describe_shard(path)


def describe_shard(path: Path) -> Shard:
    """Index a shard, write its .idx, and return its entry for dataset.json."""
    samples = index_tar(path)
    sample_table(samples, str(path))
    write_index(samples, path.with_suffix(".idx"))
    return Shard(path.name, len(samples), path.stat().st_size, sha256_of(path))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in _chunks(file):
            digest.update(chunk)
    return digest.hexdigest()


def _chunks(file: object) -> Iterator[bytes]:
    return iter(lambda: file.read(_CHUNK_BYTES), b"")  # type: ignore[attr-defined]
