"""What a range test suggests, on curves whose steepest place and minimum are known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabatch.configs.load import load
from megabatch.launcher.study.lr_range import analyse, as_base_learning_rate, smooth

RATES = [10 ** (-5 + 0.05 * n) for n in range(141)]


def valley(rate: float, bottom: float) -> float:
    """Fall like a logistic curve, steepest a decade below the bottom, and rise like a parabola after it."""
    x = math.log10(rate / bottom)
    fall = 2.3 - 1.8 / (1 + math.exp(-4 * (x + 1)))
    return fall + (max(0.0, x) * 4) ** 2


@pytest.mark.parametrize("bottom", [1e-2, 1e-1, 1.0])
def test_steepest_and_minimum_are_found_where_they_are(bottom: float) -> None:
    result = analyse(RATES, [valley(rate, bottom) for rate in RATES], "high")
    assert result.steepest == pytest.approx(bottom / 10, rel=0.15)
    assert result.minimum == pytest.approx(bottom, rel=0.6)
    assert result.minimum is not None
    assert result.safe == result.minimum / 10
    assert result.steepest is not None
    assert result.steepest < result.minimum


def test_a_loss_that_never_falls_gives_no_suggestion_but_a_reason() -> None:
    result = analyse(RATES, [2.3 + 0.1 * n for n in range(141)], "diverged")
    assert (result.steepest, result.minimum, result.safe) == (None, None, None)
    assert "the loss never fell" in result.problem
    assert "begin with a lower --low" in analyse(RATES[:4], [2.0, 1.0, 9.0, 80.0], "diverged").problem


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=40), st.integers(0, 6))
def test_smoothing_shifts_nothing_and_keeps_the_ends(values: list[float], window: int) -> None:
    smoothed = smooth(values, window)
    assert (len(smoothed), smoothed[0], smoothed[-1]) == (len(values), values[0], values[-1])
    assert smooth(values[::-1], window)[::-1] == pytest.approx(smoothed, abs=1e-9)


def test_smoothing_leaves_a_line_as_it_is() -> None:
    line = [0.5 * n for n in range(20)]
    assert smooth(line, 4) == pytest.approx(line)


@pytest.mark.parametrize("scaling", ["none", "linear", "sqrt"])
@pytest.mark.parametrize("global_batch", [32, 256, 4096])
def test_the_line_to_paste_leads_back_to_the_learning_rate(scaling: str, global_batch: int) -> None:
    batch = [f"batch.global_batch={global_batch}", "batch.micro_batch=32", f"optimizer.scaling={scaling}"]
    recipe = load("digits", "laptop", batch).recipe
    base = as_base_learning_rate(recipe, 0.0123)
    pasted = load("digits", "laptop", [*batch, f"optimizer.base_learning_rate={base:g}"]).recipe
    assert pasted.optimizer.peak_learning_rate(global_batch) == pytest.approx(0.0123, rel=0.005)
