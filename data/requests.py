"""What each rank has to load, in order: steps and an order of samples to requests. Reads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megabatch.data.draws import Order
from megabatch.data.steps import Steps


@dataclass(frozen=True)
class Request:
    """One micro-batch to load. `last` marks the last one of this rank in the step; a filler has no sample ids.

    A sample that comes more than once an epoch is told apart by its occurrence: augmentation is a function of
    (seed, epoch, sample id, occurrence). Both arrays have dtype int64 and the same length.
    """

    step: int
    epoch: int
    number: int
    sample_ids: NDArray[np.int64]
    occurrences: NDArray[np.int64]
    step_samples: int
    last: bool


def training_requests(
    steps: Steps, order: Order, rank: int, num_ranks: int, first_step: int, together: bool = False
) -> Iterator[Request]:
    """Yield what one rank has to load, from step `first_step` to the end of training.

    `together`: every rank gets the same number of micro-batches in a step (StepSpan.of_rank).
    """
    for step in range(first_step, steps.total):
        span = steps.at(step)
        spans = span.of_rank(rank, num_ranks, together)
        for part in spans:
            draws = order.draws(span.epoch, part.start, part.stop)
            yield Request(step, span.epoch, part.number, *draws, span.samples, part is spans[-1])


def evaluation_requests(
    samples: int,
    micro_batch: int,
    rank: int,
    num_ranks: int,
    chosen: NDArray[np.int64] | None = None,
    together: bool = False,
) -> Iterator[Request]:
    """Yield the part of a split that one rank evaluates; over all ranks every sample comes exactly once.

    `chosen` has the ids of the samples, shape (samples,), where they are not simply the first ones. `together`: every
    rank gets the same number of micro-batches, the last one of some has no samples.
    """
    starts = range(rank * micro_batch, samples, micro_batch * num_ranks)
    for start in starts:
        ids = np.arange(start, min(start + micro_batch, samples), dtype=np.int64)
        ids = ids if chosen is None else chosen[ids]
        yield Request(0, 0, start // micro_batch, ids, np.zeros_like(ids), samples, start == starts[-1])
    if together and len(starts) < len(range(0, samples, micro_batch * num_ranks)):
        none = np.zeros(0, dtype=np.int64)
        yield Request(0, 0, -1, none, none, samples, True)
