"""The plain order, and that of selected samples. What holds for every order is in test_draws.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megabatch.data.order import EpochOrder, Layout, PickedOrder
from megabatch.data.steps import Steps
from support.orders import layouts, selections


@given(layouts, st.integers(0, 5))
def test_every_sample_comes_exactly_once_an_epoch(layout: Layout, epoch: int) -> None:
    ids = EpochOrder(layout, epoch).samples(0, layout.samples)
    assert sorted(ids.tolist()) == list(range(layout.samples))


@given(layouts, st.integers(1, 50), st.integers(1, 8), st.integers(1, 9))
def test_the_samples_of_a_step_do_not_depend_on_the_micro_batch(
    layout: Layout, global_batch: int, micro_batch: int, other: int
) -> None:
    first = Steps(layout.samples, 1, global_batch, micro_batch, "short")
    second = Steps(layout.samples, 1, global_batch, other, "short")
    assert [(first.at(k).start, first.at(k).stop) for k in range(first.total)] == [
        (second.at(k).start, second.at(k).stop) for k in range(second.total)
    ]


@given(layouts.filter(lambda layout: layout.samples > 0), st.integers(1, 60), st.integers(1, 3))
def test_samples_seen_and_step_are_each_the_inverse_of_the_other(layout: Layout, batch: int, epochs: int) -> None:
    steps = Steps(layout.samples, epochs, batch, 4, "short")
    for step in range(min(steps.total + 1, 50)):
        assert steps.step_at(steps.samples_seen(step)) == step
    assert steps.samples_seen(steps.total) == epochs * layout.samples


def test_two_epochs_and_two_seeds_differ() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        layout = Layout((100,) * 10, seed, streams=8, window_shards=4, block_samples=16)
        return EpochOrder(layout, epoch).samples(0, 1000).tolist()

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_the_order_is_the_same_today_as_when_the_first_run_was_made() -> None:
    """A change here breaks the resume of every run on disk."""
    layout = Layout((5, 3, 0, 7), seed=1, streams=2, window_shards=2, block_samples=2)
    assert EpochOrder(layout, epoch=2).samples(0, 15).tolist() == [0, 2, 10, 13, 5, 4, 14, 12, 3, 1, 11, 9, 7, 6, 8]


def test_a_rank_keeps_to_its_share_of_the_shards() -> None:
    """With the micro-batch equal to the block and W dividing the streams, a rank touches about S / W shards."""
    layout = Layout((100,) * 64, seed=0, streams=16, window_shards=2, block_samples=10)
    order = EpochOrder(layout, epoch=0)
    steps = Steps(layout.samples, 1, 80, 10, "short")
    touched = set()
    for step in range(steps.total):
        for part in steps.at(step).of_rank(0, 8):
            touched |= {int(i) // 100 for i in order.samples(part.start, part.stop)}
    assert len(touched) <= 64 / 8 + 2 * 2  # each of the two streams may share a shard with its neighbours


def test_neighbours_in_the_order_are_far_apart_in_the_shards() -> None:
    correlations, neighbours = [], []
    for seed in range(10):
        layout = Layout((1000,) * 50, seed, streams=16, window_shards=8, block_samples=16)
        ids = EpochOrder(layout, epoch=0).samples(0, layout.samples)
        correlations.append(np.corrcoef(np.arange(layout.samples), ids)[0, 1])
        neighbours.append(np.mean(np.abs(np.diff(ids)) == 1))
    assert abs(np.mean(correlations)) < 0.03
    assert np.mean(neighbours) < 0.01


@given(selections(), st.integers(0, 5))
@settings(deadline=None)
def test_every_selected_sample_comes_exactly_once_and_no_other(order: PickedOrder, epoch: int) -> None:
    draws = order.draws(epoch, 0, order.samples)
    assert sorted(draws.sample_ids.tolist()) == order._picks(epoch).tolist()
    assert not draws.occurrences.any()


@given(layouts, st.integers(0, 5))
def test_a_selection_of_everything_is_the_plain_order(layout: Layout, epoch: int) -> None:
    everything = PickedOrder(layout, layout.samples, lambda epoch: np.arange(layout.samples))
    expected = layout.draws(epoch, 0, layout.samples)
    assert everything.draws(epoch, 0, layout.samples).sample_ids.tolist() == expected.sample_ids.tolist()


@given(layouts, st.integers(0, 5))
def test_an_array_of_shards_gives_the_order_of_a_tuple(layout: Layout, epoch: int) -> None:
    other = replace(layout, shard_samples=np.array(layout.shard_samples))
    assert EpochOrder(other, epoch).samples(0, layout.samples).tolist() == (
        EpochOrder(layout, epoch).samples(0, layout.samples).tolist()
    )


@given(layouts.filter(lambda layout: layout.samples > 60 and len(layout.shard_samples) > 3))
def test_windows_mix_only_the_shards_that_lie_in_them(layout: Layout) -> None:
    """Positions of one stream within one window of shards hold exactly the samples of that part of the line."""
    order = EpochOrder(layout, 0)
    owner = np.repeat(np.arange(len(layout.shard_samples)), layout.shard_samples)
    place_of_shard = {int(shard): place for place, shard in enumerate(order._shards)}
    for stream in range(layout.streams):
        start, end = layout.stream_starts[stream : stream + 2].tolist()
        blocks = [b for b in range(-(-layout.samples // layout.block_samples)) if b % layout.streams == stream]
        spans = [(b * layout.block_samples, min((b + 1) * layout.block_samples, layout.samples)) for b in blocks]
        ids = [i for span in spans for i in order.samples(*span).tolist()]
        assert len(ids) == end - start
        windows = [place_of_shard[int(owner[i])] // layout.window_shards for i in ids]
        assert windows == sorted(windows)
