"""The rates of a range test, and when it gives up."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from megabatch.trainer.tune_lr import DIVERGED, _Watch, exponential_rates


@given(st.floats(1e-8, 1.0), st.floats(1.5, 1e8), st.integers(2, 300))
def test_rates_grow_by_the_same_factor_from_end_to_end(low: float, factor: float, steps: int) -> None:
    rates = exponential_rates(low, low * factor, steps)
    assert len(rates) == steps
    assert math.isclose(rates[0], low)
    assert math.isclose(rates[-1], low * factor)
    ratios = [after / before for before, after in pairwise(rates)]
    assert all(math.isclose(ratio, factor ** (1 / (steps - 1)), rel_tol=1e-6) for ratio in ratios)


@given(st.lists(st.floats(1.0, DIVERGED * 0.99), min_size=1, max_size=50))
def test_a_loss_within_the_limit_never_ends_the_test(losses: list[float]) -> None:
    watch = _Watch()
    assert not any(watch.diverged(loss) for loss in losses)


def test_a_loss_that_stays_far_above_the_lowest_ends_it_and_a_single_spike_does_not() -> None:
    watch = _Watch()
    assert not any(watch.diverged(loss) for loss in [2.3] * 20 + [1.0] * 40 + [12.0] + [1.0] * 10)
    assert any(watch.diverged(20.0) for _ in range(10))
