"""Metrics of numbers and of several classes at once against scikit-learn and against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as theirs

from megabatch.trainer.metrics import (
    Array,
    OutputTable,
    average_precision,
    mean_average_precision,
    regression_metrics,
    top1_of_labels,
)

numbers = st.floats(-1e3, 1e3, width=32)


def tables(rows: st.SearchStrategy[float], columns: int, least: int = 2) -> st.SearchStrategy[Array]:
    row = st.lists(rows, min_size=columns, max_size=columns)
    return st.lists(row, min_size=least, max_size=20).map(lambda rows: np.array(rows, dtype=np.float64))


@settings(max_examples=100)
@given(tables(st.tuples(numbers, numbers), 2), st.lists(st.floats(0.1, 10), min_size=2, max_size=2))
def test_metrics_of_numbers_are_those_of_scikit_learn_in_the_unit_of_the_data(pairs: Array, scale: list[float]) -> None:
    outputs, targets = pairs[..., 0], pairs[..., 1]
    found = regression_metrics(outputs, targets, np.array(scale))
    in_unit = (targets * scale, outputs * scale)
    assert found["mae"] == pytest.approx(theirs.mean_absolute_error(*in_unit), rel=1e-9, abs=1e-9)
    assert found["mse"] == pytest.approx(theirs.mean_squared_error(*in_unit), rel=1e-9, abs=1e-9)
    if (np.ptp(targets, axis=0) > 1e-3).all():
        assert found["r2"] == pytest.approx(theirs.r2_score(*in_unit), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("output", "r2"), [(3.0, 1.0), (3.5, 0.0)])
def test_r2_of_equal_targets_is_1_without_error_and_else_0(output: float, r2: float) -> None:
    outputs, targets = np.full((4, 1), output), np.full((4, 1), 3.0)
    assert regression_metrics(outputs, targets, np.ones(1))["r2"] == r2 == theirs.r2_score(targets, outputs)


def test_r2_of_the_mean_is_0_and_worse_than_the_mean_is_below() -> None:
    targets = np.array([[1.0], [2.0], [6.0]])
    assert regression_metrics(np.full((3, 1), 3.0), targets, np.ones(1))["r2"] == 0.0
    assert regression_metrics(np.full((3, 1), 9.0), targets, np.ones(1))["r2"] < -1


def test_r2_keeps_its_digits_where_targets_are_far_from_0() -> None:
    """A sum of squares minus a square of a sum would have none left."""
    small = np.array([[0.0], [1.0], [2.0], [5.0]])
    outputs = small + np.array([[0.1], [-0.2], [0.3], [0.0]])
    near, far = (regression_metrics(outputs + shift, small + shift, np.ones(1))["r2"] for shift in (0.0, 1e7))
    assert far == pytest.approx(near, rel=1e-7)


scores = st.sampled_from([-1.0, -0.25, 0.0, 0.5, 2.0]) | st.floats(-5, 5, width=32)  # the first give many ties


@settings(max_examples=200)
@given(st.lists(st.tuples(scores, st.booleans()), min_size=1, max_size=25).filter(lambda s: any(p for _, p in s)))
def test_average_precision_is_that_of_scikit_learn_ties_included(samples: list[tuple[float, bool]]) -> None:
    outputs, positive = np.array([s for s, _ in samples]), np.array([p for _, p in samples])
    found = average_precision(outputs, positive)
    assert found == pytest.approx(theirs.average_precision_score(positive, outputs), rel=1e-12)
    mixed = np.random.default_rng(0).permutation(len(samples))
    assert average_precision(outputs[mixed], positive[mixed]) == found


def test_average_precision_by_hand() -> None:
    """Scores 3, 2, 2, 1: recall 1/2 at precision 1, then 1 at precision 2/3 (the tie counts at once)."""
    found = average_precision(np.array([2.0, 3.0, 2.0, 1.0]), np.array([True, True, False, False]))
    assert found == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert average_precision(np.array([np.inf, np.inf, 0.0]), np.array([True, False, True])) == pytest.approx(7 / 12)
    assert np.isnan(average_precision(np.array([np.nan, 1.0]), np.array([True, False])))


def test_classes_that_no_sample_has_are_left_out_of_the_mean() -> None:
    outputs = np.array([[3.0, 0.0, 1.0], [2.0, 9.0, 2.0], [1.0, 5.0, 3.0]])
    labels = np.array([[1.0, 0, 1], [0, 0, 0], [0, 0, 0]])
    assert mean_average_precision(outputs, labels) == pytest.approx((1 + 1 / 3) / 2)
    assert mean_average_precision(outputs, np.zeros((3, 3))) == 0.0


def test_top1_of_labels_is_over_the_samples_that_have_any() -> None:
    outputs = np.array([[3.0, 0, 1], [0, 9.0, 2], [1, 5.0, 3], [0, 1.0, 2]])
    labels = np.array([[1.0, 0, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1]])
    assert top1_of_labels(outputs, labels) == pytest.approx(2 / 3)
    assert top1_of_labels(outputs, np.zeros((4, 3))) == 0.0


@settings(max_examples=50)
@given(st.integers(1, 17), st.integers(1, 5), st.integers(1, 3), st.data())
def test_the_table_is_the_same_for_any_ranks_and_micro_batches(
    samples: int, micro_batch: int, ranks: int, data: st.DataObject
) -> None:
    generator = torch.Generator().manual_seed(samples)
    outputs_NK, targets_NK = torch.randn(2, samples, 3, generator=generator)
    weights_N = torch.tensor(data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=samples, max_size=samples)))
    of_ranks = [OutputTable(samples, 3, torch.device("cpu")) for _ in range(ranks)]
    for number, first in enumerate(range(0, samples, micro_batch)):
        rows = slice(first, first + micro_batch)
        of_ranks[number % ranks].put(first, outputs_NK[rows], targets_NK[rows], weights_N[rows])
    whole = of_ranks[0]
    whole.rows = torch.stack([table.rows for table in of_ranks]).sum(dim=0)
    found = whole.counted()
    for ours, expected in zip(found, (outputs_NK, targets_NK), strict=True):
        assert ours.tolist() == expected[weights_N > 0].double().tolist()
