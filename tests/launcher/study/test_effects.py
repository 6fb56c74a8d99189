"""Means, spreads and intervals against numpy and against the density of Student's t."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabatch.launcher.study.effects import Outcome, _cell_result, effect, spread, t_quantile

values = st.lists(st.floats(-1, 1), min_size=2, max_size=12)


@pytest.mark.parametrize("degrees", range(1, 31))
def test_t_quantiles_leave_two_and_a_half_percent_above(degrees: int) -> None:
    """x = sqrt(n) tan(u) makes the density of t proportional to cos(u) ** (n - 1) over -pi/2 to pi/2."""
    grid = np.linspace(0.0, math.pi / 2, 200_001)
    density = np.cos(grid) ** (degrees - 1)
    below = grid <= math.atan(t_quantile(degrees) / math.sqrt(degrees))
    assert 0.5 + 0.5 * density[below].sum() / density.sum() == pytest.approx(0.975, abs=1e-4)


@given(values)
def test_spread_is_that_of_numpy(found: list[float]) -> None:
    result = spread(found)
    assert (result.n, result.least, result.most) == (len(found), min(found), max(found))
    assert result.mean == pytest.approx(np.mean(found), abs=1e-12)
    assert result.deviation == pytest.approx(np.std(found, ddof=1), abs=1e-9)


@given(values, st.floats(-0.5, 0.5))
def test_a_verdict_needs_an_interval_without_zero(found: list[float], shift: float) -> None:
    result = effect([value + shift for value in found])
    assert result.interval is not None
    low, high = result.interval
    assert result.verdict == ("helps" if low > 0 else "hurts" if high < 0 else "unclear")
    assert low <= result.spread.mean <= high


@given(values)
def test_of_a_metric_that_is_better_when_lower_a_fall_helps(found: list[float]) -> None:
    opposite = {"helps": "hurts", "hurts": "helps", "unclear": "unclear"}
    assert effect(found, higher_is_better=False).verdict == opposite[effect(found).verdict]
    base = tuple(outcome(seed, 1.0) for seed in range(len(found)))
    cell = tuple(outcome(seed, 1.0 + value) for seed, value in enumerate(found))
    verdicts = [_cell_result("cell", cell, base, metric).effects["test"].verdict for metric in ("mae", "r2")]
    assert verdicts[0] == opposite[verdicts[1]]


def test_one_seed_says_nothing() -> None:
    result = effect([0.3])
    assert (result.interval, result.verdict) == (None, "unclear")


def outcome(seed: int, top1: float | None) -> Outcome:
    found = {} if top1 is None else {"test": top1}
    return Outcome(seed, "finished" if found else "failed", found, dict(found), 1, "folder")


def test_differences_are_taken_seed_by_seed_and_leave_out_what_is_missing() -> None:
    base = (outcome(0, 0.5), outcome(1, 0.8), outcome(2, None))
    cell = (outcome(0, 0.6), outcome(1, 0.85), outcome(2, 0.99))
    result = _cell_result("cell", cell, base, "top1")
    assert result.effects["test"].differences == pytest.approx((0.1, 0.05))
    assert result.values["test"].n == 3
    assert "validation" not in result.effects
    assert _cell_result("base", base, base, "top1").effects == {}
