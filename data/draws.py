"""What an order of samples is, for whoever follows one: draws by epoch and position. Knows no order by name.

An order with more than one of the same sample in an epoch tells the copies apart by their occurrence, so that each of
them is augmented in its own way. Whatever the order, any position is reached without those before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Draws(NamedTuple):
    """Samples in the order in which they are trained on: two arrays of the same length, dtype int64.

    No two draws of an epoch have both the same id and the same occurrence; where a sample comes once, it is 0.
    """

    sample_ids: NDArray[np.int64]
    occurrences: NDArray[np.int64]


class Order(Protocol):
    """An order of samples, without end: epoch after epoch of `samples` draws."""

    @property
    def samples(self) -> int:
        """Return the number of draws in an epoch."""

    def draws(self, epoch: int, start: int, stop: int) -> Draws:
        """Return the draws at positions start to stop of an epoch."""


@dataclass(frozen=True)
class RepeatedOrder:
    """Every draw of another order `times` times, the copies side by side (Hoffer et al. 2020, "Augment your batch").

    Copies that stand side by side meet in one batch, and all but the first are read from a shard that is at hand.
    """

    order: Order
    times: int

    @property
    def samples(self) -> int:
        """Return the number of draws in an epoch."""
        return self.order.samples * self.times

    def draws(self, epoch: int, start: int, stop: int) -> Draws:
        """Return the draws at positions start to stop of an epoch."""
        first = start // self.times
        once = self.order.draws(epoch, first, max(first, -(-stop // self.times)))
        of_once, copies = np.divmod(np.arange(start, stop, dtype=np.int64), self.times)
        rows = of_once - first
        return Draws(once.sample_ids[rows], once.occurrences[rows] * self.times + copies)
