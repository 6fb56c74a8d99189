"""The shards of a data set before anything in them is known: where each lies, its split, its place in the order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from megabatch.data.errors import DataError
from megabatch.data.importer import SPLIT_ORDER
from megabatch.data.sources.places import name_of, parent_of, visible

_SHARD_NAME = re.compile(r"^(?P<split>[A-Za-z].*?)(?:[-_.]?(?P<number>\d+))?\.tar$")
_NUMBER_ONLY = re.compile(r"^(?P<number>\d+)\.tar$")
_SAME_SPLIT = {"val": "validation", "valid": "validation"}


class ListedShard(NamedTuple):
    """One shard to be read: `samples` is what a list of shards says of it, if there is one."""

    place: str
    split: str
    samples: int | None = None


def listed(place: str, samples: int | None = None) -> ListedShard:
    """Return a shard whose split is told by its name: train-000000.tar, or train/000000.tar. Raises DataError."""
    name = name_of(place)
    if match := _SHARD_NAME.match(name):
        return ListedShard(place, split_name(match["split"]), samples)
    folder = split_name(name_of(parent_of(place)))
    if _NUMBER_ONLY.match(name) and folder in SPLIT_ORDER:
        return ListedShard(place, folder, samples)
    raise DataError(f"{visible(place)}: the split cannot be told from the name: call shards train-000000.tar")


def split_name(text: str) -> str:
    """Return the name of a split as megabatch writes it: val and valid are validation."""
    return _SAME_SPLIT.get(text, text)


def in_order(shards: Iterable[ListedShard]) -> list[ListedShard]:
    """Return the shards sorted by split and number, so that train-2.tar comes before train-10.tar.

    The order decides the order of training, so it must be the same however the shards were named.
    Raises DataError for a shard that comes twice.
    """
    ordered = sorted(shards, key=_order)
    counts = Counter(shard.place for shard in ordered)
    twice = [place for place, count in counts.items() if count > 1]
    if twice:
        raise DataError(f"{visible(twice[0])}: is named twice: its samples would come twice in every epoch")
    return ordered


def _order(shard: ListedShard) -> tuple[int, str, int, str, str]:
    name = name_of(shard.place)
    match = _SHARD_NAME.match(name) or _NUMBER_ONLY.match(name)
    number = int(match["number"] or 0) if match else 0
    rank = SPLIT_ORDER.index(shard.split) if shard.split in SPLIT_ORDER else len(SPLIT_ORDER)
    return rank, shard.split, number, name, shard.place


def file_names(shards: list[ListedShard]) -> list[str]:
    """Return a name for each shard in one folder: its own, with its number before it where two have the same."""
    names = [name_of(shard.place) for shard in shards]
    if len(set(names)) == len(names):
        return names
    return [f"{number:06d}-{name}" for number, name in enumerate(names)]
