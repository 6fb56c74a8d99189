"""Which image goes to which split: by class, in given shares, as a function of seed and names. Reads no files."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction

from megabatch.data.errors import DataError
from megabatch.data.image_sources import SourceImage, shown


def stratify(images: Iterable[SourceImage], shares: Mapping[str, float], seed: int, where: str) -> list[SourceImage]:
    """Give the images of train to the splits named in `shares`; images of other splits stay where they are.

    Which images of a class go where depends on the seed and their names only, not on the order or the other classes'
    names. Raises DataError, naming the classes, if a class has fewer images than there are splits.
    """
    images = list(images)
    _check_shares(shares, {image.split for image in images})
    by_class: dict[str, list[SourceImage]] = defaultdict(list)
    for image in images:
        if image.split == "train":
            by_class[image.class_name].append(image)
    too_few = [name for name, members in sorted(by_class.items()) if len(members) < len(shares)]
    if too_few:
        raise DataError(
            f"{where}: nothing to stratify: {len(too_few):,} classes have fewer images than splits "
            f"({shown(too_few)}): import without --split, or add images"
        )
    counts = apportion({name: len(members) for name, members in sorted(by_class.items())}, shares)
    result = [image for image in images if image.split != "train"]
    for class_name, members in by_class.items():
        shuffled = iter(sorted(members, key=lambda image: (_hash(seed, image), image.path)))
        for split, count in counts[class_name].items():
            result += [replace(next(shuffled), split=split) for _ in range(count)]
    return result


def apportion(sizes: Mapping[str, int], shares: Mapping[str, float]) -> dict[str, dict[str, int]]:
    """Divide every class in the given shares, at least one image for each split; each class must have that many.

    Whole numbers first; what is left of a class goes to the splits that are furthest behind, counted over the classes
    so far. So a class is less than one image off, and so are two splits in total, where no class is so small that
    it must be given one image more than its share.

    >>> apportion({"cat": 5, "dog": 5}, {"train": 0.5, "test": 0.5})
    {'cat': {'train': 3, 'test': 2}, 'dog': {'train': 2, 'test': 3}}
    """
    exact = {split: Fraction(repr(share)) for split, share in shares.items()}
    behind = dict.fromkeys(exact, Fraction(0))
    result = {}
    for name, size in sizes.items():
        quota = {split: size * share for split, share in exact.items()}
        counts = {split: max(1, int(share)) for split, share in quota.items()}
        for _ in range(sum(counts.values()) - size):
            counts[max(counts, key=lambda split: counts[split])] -= 1
        for _ in range(size - sum(counts.values())):
            open_splits = [split for split in counts if counts[split] < quota[split]]
            counts[max(open_splits, key=lambda split: behind[split] + quota[split] - counts[split])] += 1
        for split, count in counts.items():
            behind[split] += quota[split] - count
        result[name] = counts
    return result


def _check_shares(shares: Mapping[str, float], splits: set[str]) -> None:
    try:
        total = sum(Fraction(repr(share)) for share in shares.values())
    except ValueError:  # nan, inf
        total = Fraction(-1)
    if total != 1 or min(shares.values()) <= 0:
        listed = ", ".join(f"{name}={share:g}" for name, share in shares.items())
        raise DataError(f"--split: the shares must be positive and add up to 1, not {listed} ({float(total):g})")
    if "train" not in splits:
        raise DataError("--split: divides what lies in train/, and the source has no train/")
    taken = (splits - {"train"}) & set(shares)
    if taken:
        raise DataError(f"--split: the source has its own {', '.join(sorted(taken))}: leave it out of --split")


def _hash(seed: int, image: SourceImage) -> bytes:
    name = f"{seed}/{image.class_name}/{image.name}"
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
