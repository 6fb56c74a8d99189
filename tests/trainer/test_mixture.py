"""Weights of members against a general solver and brute force, and the test of pairs against scipy's."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import binomtest

from megabatch.trainer.mixture import Array, fitted, gain_of, greedy, mixed_loss, sign_test


def scores(seed: int, numbers: bool, members: int = 4) -> Array:
    """Members of unequal quality that err together in part; the last one is of no use."""
    random = np.random.default_rng(seed)
    if numbers:
        misses: Array = random.normal(size=(200, members)) * [1, 2, 0.7, 6] + random.normal(size=(200, 1))
        return misses
    right: Array = random.uniform(0.05, 1, size=(200, members)) * [1, 0.9, 1, 0.1]
    return right


def by_a_general_solver(values: Array, numbers: bool) -> Array:
    members = values.shape[1]
    found = minimize(
        lambda weights: mixed_loss(values, weights, numbers), np.full(members, 1 / members), method="SLSQP",
        bounds=[(0, 1)] * members, constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1}, tol=1e-15,
    )  # fmt: skip
    return np.asarray(found.x)


@pytest.mark.parametrize("numbers", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_fitted_weights_are_those_of_a_general_solver(seed: int, numbers: bool) -> None:
    values = scores(seed, numbers)
    found, expected = fitted(values, numbers), by_a_general_solver(values, numbers)
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert mixed_loss(values, found, numbers) <= mixed_loss(values, expected, numbers) + 1e-6
    assert mixed_loss(values, found, numbers) < mixed_loss(values, np.full(4, 0.25), numbers) - 1e-3


def test_a_member_that_adds_nothing_is_left_out() -> None:
    values = np.array([[0.9, 0.3], [0.8, 0.2], [0.7, 0.6]])
    assert fitted(values, numbers=False).tolist() == [1.0, 0.0]
    assert fitted(np.array([[0.1, 3.0], [0.2, 2.0]]), numbers=True).tolist() == [1.0, 0.0]
    assert greedy(values, numbers=False).tolist() == [1.0, 0.0]


def test_what_no_member_holds_possible_decides_nothing() -> None:
    assert fitted(np.array([[0.0, 0.0], [0.9, 0.1]]), numbers=False).tolist() == [1.0, 0.0]
    assert fitted(np.zeros((3, 2)), numbers=False).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("numbers", [False, True])
def test_greedy_is_the_best_of_the_mixtures_on_its_way(numbers: bool) -> None:
    values = scores(1, numbers)
    found = greedy(values, numbers)
    counts, way = np.zeros(4), []
    for size in range(1, 41):
        tried = [(mixed_loss(values, (counts + one) / size, numbers), n) for n, one in enumerate(np.eye(4))]
        counts[min(tried)[1]] += 1
        way.append((min(tried)[0], tuple(counts / size)))
    assert tuple(found) == min(way)[1]
    best = by_a_general_solver(values, numbers)
    assert mixed_loss(values, best, numbers) <= min(way)[0] < mixed_loss(values, best, numbers) + 1e-3


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_sign_test_is_the_exact_binomial_one(one: int, other: int) -> None:
    expected = binomtest(one, one + other).pvalue if one + other else 1.0
    assert sign_test(one, other) == pytest.approx(expected)


def test_thousands_of_pairs_are_no_problem() -> None:
    assert sign_test(5000, 5000) == 1.0
    assert sign_test(5400, 4600) < 1e-12


def test_the_gain_is_a_mean_with_its_standard_error() -> None:
    pairs = list(product([1.0, 0.0], [-1.0]))
    gain, error = gain_of([a + b for a, b in pairs])
    assert (gain, error) == (-0.5, 0.5)
    assert np.isnan(gain_of([1.0])[1])
