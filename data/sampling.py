"""Draws by weight, exact in every epoch: systematic sampling (Madow 1949) over strata of equal weight. Integers only.

Samples with the same label and the same weight form a stratum. The strata are laid end to end, each as long as its
weights add up to, and a comb with one tooth for every draw of the epoch is laid over that line: a stratum is drawn as
often as teeth fall on it, so its count is the expectation rounded up or down, and so is that of a class, whose strata
lie side by side. From epoch to epoch the comb shifts by the van der Corput sequence 0, 1/2, 1/4, 3/4, ... of a tooth's
width, which makes up for the rounding: after E epochs a stratum or class is at most 1 + log2(E) / 3 draws off in all
(Bejian and Faure 1977).

Within a stratum the draws go round in a fixed random order and the next epoch goes on where this one ended. So in any
epoch, and over all epochs together, its samples come equally often to within one.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from fractions import Fraction
from math import lcm
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from megabatch.data.errors import DataError
from megabatch.data.hashing import key, permutation
from megabatch.data.order import starts

_STRATUM = 11  # what a key is for
_SHOWN = 5
_BITS = 32  # the shifts of the comb are multiples of 2^-32, so the first 2^32 epochs are exact


class WeightedPicks:
    """Which samples an epoch has. Takes memory and time in proportion to the number of samples.

    >>> picks = WeightedPicks(np.arange(4), np.array([0, 0, 0, 1]), [Fraction(1), Fraction(3)], seed=0)
    >>> [picks(epoch).tolist() for epoch in range(3)]  # the last sample makes up half of each epoch
    [[0, 1, 3, 3], [0, 2, 3, 3], [1, 2, 3, 3]]
    """

    def __init__(self, sample_ids: NDArray[np.int64], strata: NDArray[np.intp], weights: Sequence[Fraction], seed: int):
        """Take the sorted ids, the stratum of each, shape (samples,), and the weight of a sample of each stratum."""
        self.sample_ids = sample_ids
        self._strata = strata.astype(np.int32)
        self._sizes = np.bincount(strata, minlength=len(weights)).astype(np.int64)
        self._places = _places(self._strata, self._sizes, seed)
        self._whole, self._part = _bounds(self._sizes, weights, draws=len(sample_ids))

    def __call__(self, epoch: int) -> NDArray[np.int64]:
        """Return the ids of an epoch's samples, sorted, each as often as it is drawn: shape (samples,), int64."""
        this = np.diff(self._whole + (_reversed_bits(epoch) < self._part), prepend=0)
        before = np.diff(epoch * self._whole + _shifts_below(epoch, self._part), prepend=0)
        rounds, rest = np.divmod(this, self._sizes)
        since = (self._places - (before % self._sizes)[self._strata]) % self._sizes[self._strata]
        return np.repeat(self.sample_ids, rounds[self._strata] + (since < rest[self._strata]))


def _places(strata: NDArray[np.int32], sizes: NDArray[np.int64], seed: int) -> NDArray[np.int32]:
    """Return the place of each sample in the round of its stratum: a permutation of range(size) for each."""
    shuffled = permutation(key(seed, _STRATUM), len(strata))
    grouped = shuffled[np.argsort(strata[shuffled], kind="stable")]
    places = np.empty(len(strata), dtype=np.int32)
    places[grouped] = np.arange(len(strata)) - np.repeat(starts(sizes)[:-1], sizes)
    return places


def _bounds(
    sizes: NDArray[np.int64], weights: Sequence[Fraction], draws: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each stratum ends on the line, in teeth: the whole ones, and the rest in units of 2^-32, rounded up.

    A tooth shifted by k units lies below an end with rest r exactly if k < ceil(r): no precision is lost.
    """
    unit = lcm(*(weight.denominator for weight in weights))
    lengths = [int(size) * int(weight * unit) for size, weight in zip(sizes.tolist(), weights, strict=True)]
    total = sum(lengths)
    whole, part = np.empty(len(lengths), dtype=np.int64), np.empty(len(lengths), dtype=np.int64)
    end = 0
    for stratum, length in enumerate(lengths):
        end += length
        whole[stratum], rest = divmod(end * draws, total)
        part[stratum] = -(-(rest << _BITS) // total)
    return whole, part


def _reversed_bits(epoch: int) -> int:
    """Return the van der Corput sequence (1935), times 2^32: the bits of the epoch in reverse."""
    return int(f"{epoch:0{_BITS}b}"[::-1], 2)


def _shifts_below(epochs: int, part: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many of the first `epochs` shifts are below each `part`.

    The 2^j epochs that share all bits above the j-th have shifts that lie 2^-j apart.
    """
    counts = np.zeros_like(part)
    for bit in range(epochs.bit_length()):
        if epochs >> bit & 1:
            first = _reversed_bits(epochs >> (bit + 1) << (bit + 1))
            counts += np.clip(-((first - part) >> (_BITS - bit)), 0, 1 << bit)
    return counts


class Weights(NamedTuple):
    """What a file of weights says: one for each class name, or one for each sample key."""

    by_class: bool
    values: dict[str, Fraction]


def read_weights(file: Path) -> Weights:
    """Read `{"classes": {NAME: weight}}` or `{"samples": {KEY: weight}}`, numbers exactly as they are written.

    Raises DataError.
    """
    try:
        text = file.read_text(encoding="utf-8")
        values = json.loads(text, parse_float=Fraction, parse_int=Fraction, object_pairs_hook=_distinct)
        ((kind, weights),) = values.items()
        if (
            kind not in ("classes", "samples")
            or not weights
            or not all(isinstance(w, Fraction) for w in weights.values())
        ):
            raise ValueError("no such mapping in it")
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        wanted = 'write {"classes": {"NAME": 2.5, ...}} or {"samples": {"KEY": 0.1, ...}}'
        raise DataError(f"{file}: no weights ({error}): {wanted}") from None
    negative = [name for name, weight in weights.items() if weight < 0]
    if negative or not any(weights.values()):
        seen = f"{negative[0]!r} has a weight below 0" if negative else "every weight is 0"
        raise DataError(f"{file}: {seen}: write weights of 0 or more, and some above 0")
    return Weights(kind == "classes", weights)


def by_name(weights: Weights, names: Sequence[str], known: Collection[str], file: Path) -> list[Fraction]:
    """Return the weight of each sample by its class or key. Raises DataError where file and data do not agree."""
    for wrong, what in (
        (set(names) - weights.values.keys(), "no weight for"),
        (weights.values.keys() - set(known), "no class or training sample is called"),
    ):
        if wrong:
            more = f" (and {len(wrong) - _SHOWN:,} more)" if len(wrong) > _SHOWN else ""
            raise DataError(f"{file}: {what} {', '.join(map(repr, sorted(wrong)[:_SHOWN]))}{more}: correct the file")
    return [weights.values[name] for name in names]


def class_balanced(sample_ids: NDArray[np.int64], labels: NDArray[np.int64], seed: int) -> WeightedPicks:
    """Return picks in which every label comes equally often. `labels` has the label of each sample id."""
    _, strata, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return WeightedPicks(sample_ids, strata, [Fraction(1, count) for count in counts.tolist()], seed)


def weighted(
    sample_ids: NDArray[np.int64], labels: NDArray[np.int64], weights: Sequence[Fraction], seed: int, where: str
) -> WeightedPicks:
    """Return picks by the weight of each sample. Raises DataError, naming `where`, if all of them are 0."""
    distinct = sorted(set(weights))
    rank = {weight: number for number, weight in enumerate(distinct)}
    ranks = np.fromiter((rank[weight] for weight in weights), np.int64, len(weights))
    found, strata = np.unique(labels * len(distinct) + ranks, return_inverse=True)
    of_strata = [distinct[number % len(distinct)] for number in found.tolist()]
    if not any(of_strata):
        raise DataError(f"{where}: the weight of every sample is 0: give some of them a weight above 0")
    return WeightedPicks(sample_ids, strata, of_strata, seed)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:  # Any: a JSON value
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(name for number, (name, _) in enumerate(pairs) if name in dict(pairs[:number]))
        raise ValueError(f"{twice!r} stands in it twice")
    return values
