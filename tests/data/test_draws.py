"""What holds for every order: any position without those before it, the same for any number of ranks, no draw twice."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabatch.data.draws import Order, RepeatedOrder
from megabatch.data.mixture import MixedOrder
from megabatch.data.order import Layout, PickedOrder
from megabatch.data.requests import Request, training_requests
from megabatch.data.sampling import class_balanced
from megabatch.data.steps import Steps
from support.orders import filled_layouts, mixtures, orders, repeated, samplings, selections, single_orders

EVERY_KIND = pytest.mark.parametrize("kind", [filled_layouts, selections(), samplings(), mixtures(), repeated()],
                                     ids=["plain", "selection", "sampling", "mixture", "repeats"])  # fmt: skip


def epoch_of(order: Order, epoch: int) -> list[tuple[int, int]]:
    return pairs(*order.draws(epoch, 0, order.samples))


def pairs(sample_ids: np.ndarray, occurrences: np.ndarray) -> list[tuple[int, int]]:
    assert sample_ids.dtype == occurrences.dtype == np.int64
    return list(zip(sample_ids.tolist(), occurrences.tolist(), strict=True))


def trained(requests: list[Request]) -> dict[int, list[tuple[int, int]]]:
    """The draws of each step, those of all ranks in the order of the micro-batch numbers."""
    steps: dict[int, list[tuple[int, int]]] = {}
    for request in sorted(requests, key=lambda request: (request.step, request.number)):
        steps.setdefault(request.step, []).extend(pairs(request.sample_ids, request.occurrences))
    return steps


@EVERY_KIND
@given(data=st.data(), epoch=st.integers(0, 9))
@settings(deadline=None, max_examples=60)
def test_any_range_can_be_read_without_what_comes_before(
    kind: st.SearchStrategy[Order], data: st.DataObject, epoch: int
) -> None:
    order = data.draw(kind)
    whole = epoch_of(order, epoch)
    assert len(whole) == order.samples
    start = data.draw(st.integers(0, order.samples))
    stop = data.draw(st.integers(start, order.samples))
    assert pairs(*order.draws(epoch, start, stop)) == whole[start:stop]


@EVERY_KIND
@given(data=st.data(), epoch=st.integers(0, 9))
@settings(deadline=None, max_examples=60)
def test_no_draw_of_an_epoch_has_the_id_and_the_occurrence_of_another(
    kind: st.SearchStrategy[Order], data: st.DataObject, epoch: int
) -> None:
    whole = epoch_of(data.draw(kind), epoch)
    assert len(set(whole)) == len(whole)


@EVERY_KIND
@given(data=st.data(), global_batch=st.integers(1, 50), micro_batch=st.integers(1, 20), num_ranks=st.integers(1, 8))
@settings(deadline=None, max_examples=60)
def test_all_ranks_together_read_the_same_order_whatever_their_number(
    kind: st.SearchStrategy[Order], data: st.DataObject, global_batch: int, micro_batch: int, num_ranks: int
) -> None:
    order = data.draw(kind)
    steps = Steps(order.samples, 2, global_batch, micro_batch, data.draw(st.sampled_from(["short", "drop"])))
    requests = [r for rank in range(num_ranks) for r in training_requests(steps, order, rank, num_ranks, 0)]
    of_step = trained(requests)
    assert list(of_step) == list(range(steps.total))
    for epoch in range(2):
        read = [pair for step in range(steps.per_epoch) for pair in of_step[epoch * steps.per_epoch + step]]
        assert read == epoch_of(order, epoch)[: steps.samples_per_epoch]


@EVERY_KIND
@given(data=st.data(), ranks=st.tuples(st.integers(1, 6), st.integers(1, 6)), micro_batch=st.integers(1, 9))
@settings(deadline=None, max_examples=60)
def test_a_run_that_goes_on_with_other_ranks_takes_exactly_the_draws_that_are_left(
    kind: st.SearchStrategy[Order], data: st.DataObject, ranks: tuple[int, int], micro_batch: int
) -> None:
    order = data.draw(kind)
    steps = Steps(order.samples, 1, data.draw(st.integers(1, 40)), micro_batch, "short")
    stop = data.draw(st.integers(0, steps.total))
    before = [r for rank in range(ranks[0]) for r in training_requests(steps, order, rank, ranks[0], 0)]
    after = [r for rank in range(ranks[1]) for r in training_requests(steps, order, rank, ranks[1], stop)]
    seen = [pair for step, draws in trained(before).items() if step < stop for pair in draws]
    rest = [pair for draws in trained(after).values() for pair in draws]
    assert len(seen) == steps.samples_seen(stop)
    assert Counter(seen + rest) == Counter(epoch_of(order, 0))
    assert seen + rest == epoch_of(order, 0)


@given(orders, st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_reading_backwards_gives_the_same_as_reading_forwards(order: Order, epoch: int) -> None:
    """What an order keeps of windows and epochs it has opened changes nothing."""
    whole = epoch_of(order, epoch)
    one_by_one = [pairs(*order.draws(epoch, p, p + 1))[0] for p in reversed(range(order.samples))]
    assert one_by_one[::-1] == whole


@given(single_orders, st.integers(1, 5), st.integers(0, 4))
@settings(deadline=None, max_examples=60)
def test_repeats_put_the_copies_of_every_draw_side_by_side(order: Order, times: int, epoch: int) -> None:
    copies = epoch_of(RepeatedOrder(order, times), epoch)
    expected = [(i, o * times + copy) for i, o in epoch_of(order, epoch) for copy in range(times)]
    assert copies == expected


def test_repeated_samples_of_a_plain_order_are_told_apart_from_zero_on() -> None:
    order = RepeatedOrder(Layout((4, 4), seed=1, streams=2, window_shards=1, block_samples=2), times=3)
    assert order.samples == 24
    assert order.draws(0, 0, 24).occurrences.tolist() == [0, 1, 2] * 8
    assert Counter(order.draws(0, 0, 24).sample_ids.tolist()) == dict.fromkeys(range(8), 3)


def large(kind: str, seed: int) -> Order:
    layout = Layout((30,) * 20, seed, streams=4, window_shards=3, block_samples=8)
    if kind == "selection":
        return PickedOrder(layout, 300, lambda epoch: np.arange(0, 600, 2))
    if kind == "sampling":
        return PickedOrder(layout, 600, class_balanced(np.arange(600), np.arange(600) // 400, seed))
    if kind == "mixture":
        return MixedOrder([layout, large("selection", seed)], [0, 600], [Fraction(1), Fraction(2)])
    return layout if kind == "plain" else RepeatedOrder(layout, 2)


@pytest.mark.parametrize("kind", ["plain", "selection", "sampling", "mixture", "repeats"])
def test_two_epochs_and_two_seeds_differ(kind: str) -> None:
    read = []
    for seed in (0, 1):
        order = large(kind, seed)
        read += [order.draws(epoch, 0, order.samples).sample_ids.tolist() for epoch in (0, 1, 2)]
    assert all(a != b for i, a in enumerate(read) for b in read[:i])
