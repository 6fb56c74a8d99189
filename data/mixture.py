"""Several data sets as one: read one after the other, or mixed in exact proportions, whatever their sizes.

The source of a draw follows a fixed pattern, repeated for ever: with weights 0.5, 0.3, 0.2 it is ten draws long and
has five of the first source, three of the second and two of the third, spread as evenly as whole numbers can be
(Tijdeman 1980, "The chairman assignment problem"): from the start to any position, a source of r has been drawn
weight * position times to within 1 - 1 / (2r - 2), and in any window weight * length times to within 2 - 1 / (r - 1).
Which sample of the source it is, is counted along the pattern; so any position costs the same.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import accumulate
from math import gcd, lcm

import numpy as np
from numpy.typing import NDArray

from megabatch.data.draws import Draws, Order
from megabatch.data.errors import DataError
from megabatch.data.order import starts
from megabatch.data.read import EncodedSample, Reader

MAX_PATTERN = 1_000_000


class JoinedReader:
    """Reads the samples of several data sets; their ids run on from one to the next."""

    def __init__(self, readers: Sequence[Reader]):
        self.readers = tuple(readers)
        self._first_ids = list(accumulate((reader.samples for reader in readers), initial=0))

    @property
    def samples(self) -> int:
        """Return the number of samples of all."""
        return self._first_ids[-1]

    def read(self, sample_id: int) -> EncodedSample:
        """Return sample `sample_id`. Raises DataError naming the shard."""
        number = bisect_right(self._first_ids, sample_id) - 1
        return self.readers[number].read(sample_id - self._first_ids[number])

    @property
    def is_remote(self) -> bool:
        """Return whether one of the data sets is loaded from elsewhere."""
        return any(reader.is_remote for reader in self.readers)

    def prefetch(self, sample_ids: Iterable[int]) -> None:
        """Begin to load what these samples lie in, if it is not on this machine."""
        wanted: dict[int, list[int]] = {}
        for sample_id in sample_ids:
            number = bisect_right(self._first_ids, sample_id) - 1
            wanted.setdefault(number, []).append(sample_id - self._first_ids[number])
        for number, of_reader in wanted.items():
            self.readers[number].prefetch(of_reader)


class MixedOrder:
    """Draws from several orders in the proportions of `weights`; an epoch has as many draws as all of them together.

    Each source goes through epochs of its own, one after the other, however the epochs of the mixture lie. A sample
    that comes from two epochs of its source in one epoch of the mixture is told apart by its occurrence.
    """

    def __init__(self, orders: Sequence[Order], first_ids: Sequence[int], weights: Sequence[Fraction]):
        """Take the order of each source, none of them empty, and what to add to its sample ids. Raises DataError."""
        self.samples = sum(order.samples for order in orders)
        self._orders = tuple(orders)
        self._first_ids = tuple(first_ids)
        whole = whole_weights(weights)
        self._pattern = balanced_pattern(whole)
        self._per_round = np.asarray(whole, dtype=np.int64)
        self._before = _counts_before(self._pattern)
        self._epochs_met = [self._most_epochs(order, weight) for order, weight in zip(orders, whole, strict=True)]

    def draws(self, epoch: int, start: int, stop: int) -> Draws:
        """Return the draws at positions start to stop of an epoch."""
        rounds, places = np.divmod(epoch * self.samples + np.arange(start, stop), len(self._pattern))
        sources = self._pattern[places]
        numbers = rounds * self._per_round[sources] + self._before[places]
        result = Draws(np.empty(len(places), dtype=np.int64), np.empty(len(places), dtype=np.int64))
        for source in np.unique(sources).tolist():
            rows = np.flatnonzero(sources == source)
            drawn = self._of_source(source, epoch, int(numbers[rows[0]]), len(rows))
            result.sample_ids[rows], result.occurrences[rows] = drawn
        return result

    def _of_source(self, source: int, epoch: int, first: int, count: int) -> Draws:
        """Return draws first to first + count of a source, counted since the beginning of training."""
        order = self._orders[source]
        own_epoch_at_start = self._drawn_before(source, epoch * self.samples) // order.samples
        parts = []
        while count:
            own_epoch, position = divmod(first, order.samples)
            taken = min(count, order.samples - position)
            draws = order.draws(own_epoch, position, position + taken)
            occurrences = draws.occurrences * self._epochs_met[source] + own_epoch - own_epoch_at_start
            parts.append(Draws(draws.sample_ids + self._first_ids[source], occurrences))
            first, count = first + taken, count - taken
        return Draws(*map(np.concatenate, zip(*parts, strict=True)))

    def _drawn_before(self, source: int, position: int) -> int:
        """Return how often a source was drawn before a position, counted since the beginning of training."""
        rounds, place = divmod(position, len(self._pattern))
        return rounds * int(self._per_round[source]) + int(np.count_nonzero(self._pattern[:place] == source))

    def _most_epochs(self, order: Order, weight: int) -> int:
        """Return how many epochs of a source an epoch of the mixture meets at most."""
        most_draws = self.samples * weight // len(self._pattern) + 2
        return -(-most_draws // order.samples) + 1


def whole_weights(weights: Sequence[Fraction]) -> tuple[int, ...]:
    """Return the smallest integers in the proportions of the weights. Raises DataError if they add up to too much.

    >>> whole_weights([Fraction("0.5"), Fraction("0.25"), Fraction("0.25")])
    (2, 1, 1)
    """
    unit = lcm(*(weight.denominator for weight in weights))
    whole = [int(weight * unit) for weight in weights]
    smallest = tuple(weight // gcd(*whole) for weight in whole)
    if sum(smallest) > MAX_PATTERN:
        raise DataError(
            f"data.sources: the weights are to each other as {' : '.join(f'{weight:,}' for weight in smallest)}: exact "
            f"proportions would take a pattern of {sum(smallest):,} draws, at most {MAX_PATTERN:,} are possible. "
            "Write weights with fewer digits, such as 0.7 and 0.3"
        )
    return smallest


def balanced_pattern(weights: Sequence[int]) -> NDArray[np.int16]:
    """Return sum(weights) source numbers, source s weights[s] times, spread evenly: Tijdeman's algorithm.

    Draw j of a source may come from the place on where leaving it out would put the source behind by 1 / (2r - 2), and
    must come before it would be behind by more than 1 - 1 / (2r - 2). At every place the one that is due first comes.

    >>> balanced_pattern([5, 3, 2]).tolist()
    [0, 1, 0, 2, 0, 1, 0, 2, 0, 1]
    """
    total, slack = sum(weights), max(1, 2 * len(weights) - 2)
    drawn = [0] * len(weights)
    pattern = np.empty(total, dtype=np.int16)

    def may_come(source: int) -> int:
        return -(-total * (slack * drawn[source] + 1) // (slack * weights[source])) - 1

    def is_due(source: int) -> int:
        return total * (slack * (drawn[source] + 1) - 1) // (slack * weights[source])

    coming = [(may_come(source), is_due(source)) for source in range(len(weights))]
    for place in range(total):
        source = min(
            (source for source, (may, _) in enumerate(coming) if may <= place), key=lambda source: coming[source][1]
        )
        assert place <= coming[source][1]
        pattern[place] = source
        drawn[source] += 1
        coming[source] = (may_come(source), is_due(source))
    return pattern


def _counts_before(pattern: NDArray[np.int16]) -> NDArray[np.int32]:
    """Return how often the source of each place stands in the pattern before it."""
    by_source = np.argsort(pattern, kind="stable")
    first = starts(np.bincount(pattern).astype(np.int64))[:-1]
    before = np.empty(len(pattern), dtype=np.int32)
    before[by_source] = np.arange(len(pattern)) - first[pattern[by_source]]
    return before
