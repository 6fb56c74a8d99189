"""Metrics of numbers and of several classes at once against their definitions, written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megabatch.configs.targets import ClassTarget, LabelsTarget, NumbersTarget, Target
from megabatch.trainer.metrics import (
    Array,
    gathered,
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
def test_metrics_of_numbers_are_their_formulas_in_the_unit_of_the_data(pairs: Array, scale: list[float]) -> None:
    outputs, targets = pairs[..., 0], pairs[..., 1]
    found = regression_metrics(outputs, targets, np.array(scale))
    errors = (outputs - targets) * scale
    assert found["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-9, abs=1e-9)
    assert found["mse"] == pytest.approx((errors**2).mean(), rel=1e-9, abs=1e-9)
    if (np.ptp(targets, axis=0) > 1e-3).all():
        spread = ((targets - targets.mean(axis=0)) * scale) ** 2
        assert found["r2"] == pytest.approx(
            (1 - (errors**2).sum(axis=0) / spread.sum(axis=0)).mean(), rel=1e-6, abs=1e-6
        )


@pytest.mark.parametrize(("output", "r2"), [(3.0, 1.0), (3.5, 0.0)])
def test_r2_of_equal_targets_is_1_without_error_and_else_0(output: float, r2: float) -> None:
    outputs, targets = np.full((4, 1), output), np.full((4, 1), 3.0)
    assert regression_metrics(outputs, targets, np.ones(1))["r2"] == r2


def test_r2_of_one_sample_and_everything_of_an_output_that_is_not_finite_is_no_number() -> None:
    found = regression_metrics(np.array([[2.0]]), np.array([[5.0]]), np.ones(1))
    assert (found["mae"], found["mse"], np.isnan(found["r2"])) == (3.0, 9.0, True)
    for bad in (np.nan, np.inf):
        outputs, targets = np.array([[bad], [1.0]]), np.array([[1.0], [0.0]])
        assert np.isnan(list(regression_metrics(outputs, targets, np.ones(1)).values())).all()
        assert np.isnan(mean_average_precision(outputs, targets))


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


def average_precision(scores: Array, positive: Array) -> float:
    """The sum of (recall_t - recall_(t - 1)) * precision_t over the different scores t, from the highest down."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = positive[scores >= threshold]
        total += (chosen.sum() / positive.sum() - recall) * chosen.mean()
        recall = chosen.sum() / positive.sum()
    return total


@settings(max_examples=200)
@given(st.lists(st.tuples(scores, st.booleans()), min_size=1, max_size=25).filter(lambda s: any(p for _, p in s)))
def test_average_precision_is_its_definition_ties_included(samples: list[tuple[float, bool]]) -> None:
    outputs, positive = np.array([[s] for s, _ in samples]), np.array([[float(p)] for _, p in samples])
    found = mean_average_precision(outputs, positive)
    assert found == pytest.approx(average_precision(outputs[:, 0], positive[:, 0]), rel=1e-12)
    mixed = np.random.default_rng(0).permutation(len(samples))
    assert mean_average_precision(outputs[mixed], positive[mixed]) == found


def test_average_precision_by_hand() -> None:
    """Scores 3, 2, 2, 1: recall 1/2 at precision 1, then 1 at precision 2/3 (the tie counts at once)."""
    found = mean_average_precision(np.array([[2.0], [3.0], [2.0], [1.0]]), np.array([[1.0], [1.0], [0.0], [0.0]]))
    assert found == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


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


TARGETS = (
    ClassTarget(),
    LabelsTarget(),
    NumbersTarget(keys=("a", "b", "c"), mean=(0.0, 1.0, 2.0), std=(1.0, 3.0, 9.0)),
)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@settings(max_examples=50)
@given(st.integers(2, 17), st.integers(1, 5), st.integers(1, 3), st.data())
def test_what_the_ranks_gathered_adds_up_to_the_metrics_of_the_samples_that_count(
    target: Target, samples: int, micro_batch: int, ranks: int, data: st.DataObject
) -> None:
    generator = torch.Generator().manual_seed(samples)
    outputs = 7 if isinstance(target, ClassTarget) else 3
    outputs_NK, targets = torch.randn(2, samples, outputs, generator=generator)
    if isinstance(target, ClassTarget):
        targets = targets.argmax(dim=1)
    elif isinstance(target, LabelsTarget):
        targets = (targets > 0).double()
    drawn = st.lists(st.sampled_from([0.0, 1.0]), min_size=samples, max_size=samples).filter(lambda w: sum(w) > 1)
    weights_N = torch.tensor(data.draw(drawn), dtype=torch.float64)
    of_ranks = [gathered(target, samples, outputs, torch.device("cpu")) for _ in range(ranks)]
    for number, first in enumerate(range(0, samples, micro_batch)):
        rows = slice(first, first + micro_batch)
        of_ranks[number % ranks].add(first, outputs_NK[rows], targets[rows], weights_N[rows])
    whole = of_ranks[0]
    whole.sums = torch.stack([part.sums for part in of_ranks]).sum(dim=0)
    kept = weights_N > 0
    expected = by_definition(target, outputs_NK[kept].double().numpy(), targets[kept].numpy())
    assert whole.metrics() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def by_definition(target: Target, outputs: Array, targets: Array) -> dict[str, float]:
    if isinstance(target, NumbersTarget):
        return regression_metrics(outputs, targets, np.array(target.std))
    if isinstance(target, LabelsTarget):
        return {"map": mean_average_precision(outputs, targets), "top1": top1_of_labels(outputs, targets)}
    higher = (outputs > outputs[np.arange(len(targets)), targets][:, None]).sum(axis=1)
    return {"top1": float((higher == 0).mean()), "top5": float((higher < 5).mean())}
