"""Orders of every kind, as hypothesis draws them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

from megabatch.data.draws import Order, RepeatedOrder
from megabatch.data.mixture import MixedOrder
from megabatch.data.order import Layout, PickedOrder
from megabatch.data.sampling import WeightedPicks

layouts = st.builds(
    Layout,
    shard_samples=st.lists(st.integers(0, 40), min_size=1, max_size=12).map(tuple),
    seed=st.integers(0, 2**40),
    streams=st.integers(1, 9),
    window_shards=st.integers(1, 5),
    block_samples=st.integers(1, 9),
)
filled_layouts = layouts.filter(lambda layout: layout.samples > 0)


@st.composite
def selections(draw: st.DrawFn) -> PickedOrder:
    """Some of the samples of a layout, at least one."""
    layout = draw(filled_layouts)
    ids = np.array(sorted(draw(st.sets(st.integers(0, layout.samples - 1), min_size=1))), dtype=np.int64)
    return PickedOrder(layout, len(ids), lambda epoch: ids)


@st.composite
def picks(draw: st.DrawFn, samples: int | None = None) -> WeightedPicks:
    """Samples in strata of random sizes and weights, some of them 0."""
    count = samples if samples is not None else draw(st.integers(1, 80))
    strata = np.array(draw(st.lists(st.integers(0, 5), min_size=count, max_size=count)))
    _, strata = np.unique(strata, return_inverse=True)
    number = int(strata.max()) + 1
    weights = draw(st.lists(st.fractions(0, 5, max_denominator=30), min_size=number, max_size=number).filter(any))
    return WeightedPicks(np.arange(count), strata, weights, draw(st.integers(0, 9)))


@st.composite
def samplings(draw: st.DrawFn) -> PickedOrder:
    """Weighted draws of the samples of a layout."""
    layout = draw(filled_layouts)
    return PickedOrder(layout, layout.samples, draw(picks(layout.samples)))


single_orders = st.one_of(filled_layouts, selections(), samplings())


@st.composite
def mixtures(draw: st.DrawFn) -> MixedOrder:
    """Two to four sources with decimal weights."""
    orders: list[Order] = draw(st.lists(single_orders, min_size=2, max_size=4))
    weights = [Fraction(draw(st.integers(1, 20)), 10) for _ in orders]
    return MixedOrder(orders, [1000 * number for number in range(len(orders))], weights)


@st.composite
def repeated(draw: st.DrawFn) -> RepeatedOrder:
    """Any other order, each draw one to four times."""
    return RepeatedOrder(draw(st.one_of(single_orders, mixtures())), draw(st.integers(1, 4)))


orders = st.one_of(filled_layouts, selections(), samplings(), mixtures(), repeated())
