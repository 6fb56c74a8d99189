"""Parts of a split: the sample ids that a list of keys, a mask or a hash of the keys leaves. Reads indexes, no images.

Keys come from the .idx files (about 3 microseconds a sample), so every rank works its selection out by itself. A key
stands for every sample that has it, should there be several.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabatch.data.dataset import Split
from megabatch.data.errors import DataError
from megabatch.data.sources.places import is_remote
from megabatch.data.tar_index import read_index

MASK_FORMAT = "megabatch-mask-1"
_SHOWN = 5
_HASH_BYTES = 8


def sample_keys(folder: Path, split: Split) -> list[str]:
    """Return the key of every sample of a split, in the order of the sample ids. Raises DataError."""
    keys: list[str] = []
    for shard in split.shards:
        if is_remote(shard.url):
            assert split.cache is not None
            keys += split.cache.table(shard).keys
            continue
        index = (folder / shard.file).with_suffix(".idx")
        samples = read_index(index)
        if len(samples) != shard.samples:
            raise DataError(f"{index}: {len(samples)} samples, but dataset.json recorded {shard.samples}")
        keys += [sample.key for sample in samples]
    return keys


def listed(keys: Sequence[str], file: Path, split: str) -> NDArray[np.bool_]:
    """Return which keys stand in a text file with one key a line: shape (samples,).

    Raises DataError naming file and line for a key that no sample of the split has, or that stands there twice.
    """
    lines: dict[str, int] = {}
    for number, line in enumerate(_text(file).splitlines(), start=1):
        key = line.strip()
        if key in lines:
            raise DataError(f"{file}:{number}: key {key!r} stands in line {lines[key]} already: remove one of them")
        if key:
            lines[key] = number
    unknown = lines.keys() - set(keys)
    if unknown:
        places = sorted((lines[key], key) for key in unknown)
        shown = "\n".join(
            f"{file}:{number}: no sample of split {split!r} has the key {key!r}" for number, key in places[:_SHOWN]
        )
        raise DataError(f"{shown}{_more(len(places))}\nRemove the line, or correct the key")
    return np.fromiter((key in lines for key in keys), np.bool_, len(keys))


def read_mask(file: Path) -> dict[str, Collection[str]]:
    """Read a mask file: the keys to leave out, by split; a list, or a mapping of keys to reasons. Raises DataError."""
    try:
        values = json.loads(_text(file))
        excluded: dict[str, Any] = values["excluded"]  # Any: checked below
        well_formed = values["format"] == MASK_FORMAT and all(
            isinstance(keys, list | dict) and all(isinstance(key, str) for key in keys) for keys in excluded.values()
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        well_formed = False
    if not well_formed:
        wanted = f'{{"format": "{MASK_FORMAT}", "excluded": {{"train": ["key", ...]}}}}'
        raise DataError(f"{file}: not a mask: write {wanted}")
    return excluded


def not_masked(keys: Sequence[str], excluded: Collection[str], file: Path, split: str) -> NDArray[np.bool_]:
    """Return which keys a mask leaves: shape (samples,). Raises DataError for a key that no sample has."""
    unknown = sorted(set(excluded) - set(keys))
    if unknown:
        shown = ", ".join(map(repr, unknown[:_SHOWN]))
        raise DataError(
            f"{file}: excluded.{split}: no sample of the split has the key {shown}{_more(len(unknown))}: "
            "the mask belongs to other data. Make it again for these"
        )
    out = set(excluded)
    return np.fromiter((key not in out for key in keys), np.bool_, len(keys))


def key_hash(key: str) -> int:
    """Return 64 bits that depend on the key alone (BLAKE2b), as an integer."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=_HASH_BYTES).digest())


def hash_bounds(shares: Mapping[str, Fraction]) -> dict[str, tuple[int, int]]:
    """Return for train, validation and test the hashes (low, below) that belong to it.

    Train begins at 0, the others end at 2^64: so a smaller train takes nothing from them and gives them nothing.
    """
    everything = 1 << (8 * _HASH_BYTES)
    test = _ceil((1 - shares["test"]) * everything)
    validation = _ceil((1 - shares["test"] - shares["validation"]) * everything)
    train = _ceil(shares["train"] * everything)
    return {"train": (0, train), "validation": (validation, test), "test": (test, everything)}


def hashed_into(hashes: Sequence[int], bounds: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which hashes lie within the bounds: shape (samples,). Integers, so decimal shares are met exactly."""
    low, below = bounds
    return np.fromiter((low <= value < below for value in hashes), np.bool_, len(hashes))


def _ceil(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)


def _more(count: int) -> str:
    return f" (and {count - _SHOWN:,} more)" if count > _SHOWN else ""


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None
