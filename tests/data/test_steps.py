"""The arithmetic of steps: nothing rounded, every micro-batch given to exactly one rank."""

from __future__ import annotations

import pytest

from megabatch.data.steps import Steps


@pytest.mark.parametrize("global_batch", [1, 7, 125, 4096])
@pytest.mark.parametrize("micro_batch", [1, 5, 96])
@pytest.mark.parametrize("num_ranks", [1, 3, 7, 8])
def test_the_shares_of_the_ranks_add_up_to_the_global_batch(
    global_batch: int, micro_batch: int, num_ranks: int
) -> None:
    steps = Steps(samples=10_000, epochs=1, global_batch=global_batch, micro_batch=micro_batch, last_batch="short")
    for step in (0, 1, steps.total - 1):
        span = steps.at(step)
        shares = [part.samples for rank in range(num_ranks) for part in span.of_rank(rank, num_ranks)]
        assert sum(shares) == span.samples
        assert max(shares) <= micro_batch


def test_a_rank_without_a_micro_batch_gets_a_filler_so_that_it_takes_part_in_the_reduction() -> None:
    steps = Steps(samples=10, epochs=1, global_batch=8, micro_batch=4, last_batch="short")
    last = steps.at(1)
    assert [[part.samples for part in last.of_rank(rank, 3)] for rank in range(3)] == [[0], [0], [2]]


def test_ranks_take_turns_with_the_extra_micro_batch() -> None:
    steps = Steps(samples=120, epochs=1, global_batch=12, micro_batch=4, last_batch="short")
    counts = [[len(steps.at(step).of_rank(rank, 2)) for rank in range(2)] for step in range(2)]
    assert counts == [[2, 1], [1, 2]]


@pytest.mark.parametrize("global_batch", [7, 12, 125])
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
def test_ranks_that_go_together_have_equally_many_micro_batches_and_the_same_samples(
    global_batch: int, num_ranks: int
) -> None:
    """Round r has the micro-batches r * W to r * W + W - 1: one process would take them as one."""
    steps = Steps(samples=300, epochs=1, global_batch=global_batch, micro_batch=4, last_batch="short")
    for step in range(steps.total):
        span = steps.at(step)
        ranks = [span.of_rank(rank, num_ranks, together=True) for rank in range(num_ranks)]
        assert {len(parts) for parts in ranks} == {-(-span.num_micro_batches // num_ranks)}
        rounds = [sorted(part.start for part in parts if part.samples) for parts in zip(*ranks, strict=True)]
        assert sum(rounds, []) == list(range(span.start, span.stop, 4))
        real = [[part for part in parts if part.samples] for parts in ranks]
        alone = [span.of_rank(rank, num_ranks) for rank in range(num_ranks)]
        assert real == [[part for part in parts if part.samples] for parts in alone]


def test_a_dropped_last_batch_leaves_only_full_ones() -> None:
    steps = Steps(samples=10, epochs=2, global_batch=4, micro_batch=2, last_batch="drop")
    assert (steps.per_epoch, steps.samples_per_epoch) == (2, 8)
    assert [steps.at(step).samples for step in range(steps.total)] == [4, 4, 4, 4]
