"""Mixing: exact proportions in every window, and each source through its own epochs."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabatch.data.errors import DataError
from megabatch.data.mixture import JoinedReader, MixedOrder, Reader, balanced_pattern, whole_weights
from megabatch.data.order import Layout
from support.orders import filled_layouts

weight_lists = st.lists(st.integers(1, 60), min_size=1, max_size=7)


@given(weight_lists)
@settings(deadline=None, max_examples=200)
def test_the_pattern_has_each_source_as_often_as_its_weight_says(weights: list[int]) -> None:
    assert np.bincount(balanced_pattern(weights), minlength=len(weights)).tolist() == weights


@given(weight_lists)
@settings(deadline=None, max_examples=200)
def test_in_any_window_a_source_keeps_to_its_proportion(weights: list[int]) -> None:
    """All windows of the endless pattern, by the differences of its prefixes, in exact integers."""
    pattern, total, sources = balanced_pattern(weights), sum(weights), len(weights)
    off_at_start, off_in_window = 1 - Fraction(1, max(2 * sources - 2, 1)), 2 - Fraction(1, max(sources - 1, 1))
    for source, weight in enumerate(weights):
        before = np.concatenate([[0], np.cumsum(pattern == source)])
        off = total * before - weight * np.arange(total + 1)  # off by off / total at each place; 0 at both ends
        assert np.abs(off).max() <= off_at_start * total
        assert off.max() - off.min() <= off_in_window * total


def test_the_bound_for_windows_is_met() -> None:
    """So it is the true one for three sources: no smaller number would do."""
    worst = Fraction(0)
    for weights in ([1, 1, 2], [1, 2, 3], [1, 1, 50], [2, 3, 30], [1, 1, 1], [1, 1, 4]):
        for source, weight in enumerate(weights):
            before = np.concatenate([[0], np.cumsum(balanced_pattern(weights) == source)])
            off = sum(weights) * before - weight * np.arange(sum(weights) + 1)
            worst = max(worst, Fraction(int(off.max() - off.min()), sum(weights)))
    assert Fraction(13, 10) < worst <= Fraction(3, 2)


@given(st.lists(filled_layouts, min_size=2, max_size=4), st.data())
@settings(deadline=None, max_examples=60)
def test_each_source_goes_through_its_own_epochs(layouts: list[Layout], data: st.DataObject) -> None:
    weights = [Fraction(data.draw(st.integers(1, 9)), 10) for _ in layouts]
    mixture = MixedOrder(layouts, [1000 * n for n in range(len(layouts))], weights)
    assert mixture.samples == sum(layout.samples for layout in layouts)
    ids = np.concatenate([mixture.draws(epoch, 0, mixture.samples).sample_ids for epoch in range(4)])
    for number, layout in enumerate(layouts):
        own = ids[ids // 1000 == number] - 1000 * number
        epochs = -(-len(own) // layout.samples)
        expected = np.concatenate([layout.draws(e, 0, layout.samples).sample_ids for e in range(epochs)] or [[]])
        assert own.tolist() == expected[: len(own)].tolist()


def test_a_small_source_that_comes_several_times_an_epoch_has_a_new_occurrence_each_time() -> None:
    large, small = (Layout((n,), seed=0, streams=1, window_shards=1, block_samples=4) for n in (90, 10))
    mixture = MixedOrder([large, small], [0, 90], [Fraction(1, 2), Fraction(1, 2)])
    draws = mixture.draws(1, 0, 100)
    of_small = [o for i, o in zip(draws.sample_ids.tolist(), draws.occurrences.tolist(), strict=True) if i >= 90]
    assert Counter(of_small) == dict.fromkeys(range(5), 10)


@pytest.mark.parametrize(
    ("weights", "whole"),
    [(["0.7", "0.2", "0.1"], (7, 2, 1)), (["3"], (1,)), (["1", "1.5"], (2, 3)), (["1e-3", "1"], (1, 1000))],
)
def test_weights_become_the_smallest_integers_in_their_proportions(weights: list[str], whole: tuple[int, ...]) -> None:
    assert whole_weights([Fraction(weight) for weight in weights]) == whole


def test_weights_with_too_many_digits_are_refused() -> None:
    with pytest.raises(DataError, match=r"6,999,999 : 3,000,001: .* a pattern of 10,000,000 draws, at most 1,000,000"):
        whole_weights([Fraction("0.6999999"), Fraction("0.3000001")])


def test_a_joined_reader_asks_the_right_data_set_for_the_right_sample() -> None:
    class Numbered:
        def __init__(self, name: str, samples: int):
            self.folder, self.samples, self.name = name, samples, name

        def read(self, sample_id: int) -> tuple[str, int]:
            assert 0 <= sample_id < self.samples
            return self.name, sample_id

    readers: list[Reader] = [Numbered("a", 2), Numbered("b", 0), Numbered("c", 3)]  # type: ignore[list-item]
    joined = JoinedReader(readers)
    assert joined.samples == 5
    assert [joined.read(i) for i in range(5)] == [("a", 0), ("a", 1), ("c", 0), ("c", 1), ("c", 2)]
