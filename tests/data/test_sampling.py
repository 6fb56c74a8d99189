"""Weighted draws: exact counts in every epoch, even ones over the epochs, and files of weights with mistakes in them."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor, log2
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabatch.data.errors import DataError
from megabatch.data.sampling import WeightedPicks, Weights, by_name, class_balanced, read_weights, weighted

EPOCHS = 40
labelled = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array)
weight_lists = st.lists(st.sampled_from([Fraction(0), Fraction(1, 10), Fraction(1), Fraction(7, 3), Fraction(20)]),
                        min_size=60, max_size=60)  # fmt: skip


def counts(picks: WeightedPicks, samples: int, epochs: int = EPOCHS) -> np.ndarray:
    """How often each sample comes in each epoch: shape (epochs, samples)."""
    return np.stack([np.bincount(picks(epoch), minlength=samples) for epoch in range(epochs)])


@given(labelled, weight_lists, st.integers(0, 5))
@settings(deadline=None, max_examples=150)
def test_counts_of_samples_and_classes_are_exact_in_every_epoch(
    labels: np.ndarray, some: list[Fraction], seed: int
) -> None:
    samples, weights = len(labels), some[: len(labels)]
    if not any(weights):
        return
    drawn = counts(weighted(np.arange(samples), labels, weights, seed, "w"), samples)
    assert (drawn.sum(axis=1) == samples).all()
    expected = [samples * weight / sum(weights) for weight in weights]
    for sample, expectation in enumerate(expected):
        assert set(drawn[:, sample].tolist()) <= {floor(expectation), ceil(expectation)}
    for label in set(labels.tolist()):
        of_class = drawn[:, labels == label].sum(axis=1)
        expectation = sum(e for e, its in zip(expected, labels.tolist(), strict=True) if its == label)
        assert set(of_class.tolist()) <= {floor(expectation), ceil(expectation)}


@given(labelled, weight_lists, st.integers(0, 5))
@settings(deadline=None, max_examples=150)
def test_counts_even_out_over_the_epochs(labels: np.ndarray, some: list[Fraction], seed: int) -> None:
    samples, weights = len(labels), some[: len(labels)]
    if not any(weights):
        return
    totals = counts(weighted(np.arange(samples), labels, weights, seed, "w"), samples).cumsum(axis=0)
    shares = [weight / sum(weights) for weight in weights]
    strata = sorted(set(zip(labels.tolist(), weights, strict=True)))
    members = [[i for i in range(samples) if (labels[i], weights[i]) == stratum] for stratum in strata]
    for epochs in (1, 2, 3, 8, 21, 32, 40):
        so_far = totals[epochs - 1]
        for group in members:
            assert so_far[group].max() - so_far[group].min() <= 1
            off = int(so_far[group].sum()) - epochs * samples * sum(shares[i] for i in group)
            assert abs(off) <= 1 + log2(epochs) / 3


def test_an_epoch_does_not_need_those_before_it() -> None:
    def picks() -> WeightedPicks:
        return class_balanced(np.arange(50), np.repeat([0, 1, 2], [30, 15, 5]), seed=4)

    forwards = picks()
    assert [picks()(epoch).tolist() for epoch in (7, 2, 900)] == [forwards(epoch).tolist() for epoch in (7, 2, 900)]


def test_balanced_classes_come_equally_often_and_their_samples_too() -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 9])
    drawn = counts(class_balanced(np.arange(99), labels, seed=0), 99, epochs=20)
    assert {tuple(np.bincount(labels, weights=row)) for row in drawn} == {(33, 33, 33)}
    total = drawn.sum(axis=0)
    assert [set(total[labels == label].tolist()) for label in range(3)] == [{11}, {22}, {73, 74}]


def test_two_epochs_and_two_seeds_draw_different_samples() -> None:
    labels = np.repeat([0, 1], [90, 10])
    drawn = [class_balanced(np.arange(100), labels, seed)(epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(a != b for i, a in enumerate(drawn) for b in drawn[:i])


def test_however_small_a_weight_is_its_sample_is_drawn() -> None:
    """The first tooth of the comb stands at the very beginning of the line."""
    tiny = weighted(np.arange(2), np.array([0, 1]), [Fraction(1, 10**12), Fraction(1)], 0, "w")
    assert [tiny(epoch).tolist() for epoch in range(3)] == [[0, 1], [1, 1], [1, 1]]


def test_ids_need_not_be_consecutive() -> None:
    picks = weighted(np.array([3, 8, 40]), np.array([0, 0, 1]), [Fraction(1), Fraction(0), Fraction(2)], 0, "w")
    assert picks(0).tolist() == [3, 40, 40]


def test_the_draws_are_the_same_today_as_when_the_first_run_was_made() -> None:
    """A change here breaks the resume of every run on disk."""
    picks = weighted(np.arange(6), np.array([0, 0, 0, 1, 1, 2]), [Fraction(w) for w in (1, 1, 2, 3, 1, 1)], 5, "w")
    assert [picks(epoch).tolist() for epoch in range(3)] == [[0, 1, 2, 3, 3, 4], [0, 2, 2, 3, 3, 5], [0, 1, 2, 3, 3, 4]]


def written(folder: Path, text: str) -> Path:
    (folder / "w.json").write_text(text)
    return folder / "w.json"


def test_weights_are_read_as_they_are_written_to_the_last_digit(tmp_path: Path) -> None:
    weights = read_weights(written(tmp_path, '{"samples": {"a": 0.1, "b": 1e-20, "c": 3}}'))
    assert weights == Weights(False, {"a": Fraction(1, 10), "b": Fraction(1, 10**20), "c": Fraction(3)})
    assert read_weights(written(tmp_path, '{"classes": {"cat": 2}}')).by_class


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", r"w\.json: no weights \(.*\): write .*classes.*samples"),
        ("{}", "w.json: no weights"),
        ('{"classes": {}}', r"no weights \(no such mapping in it\)"),
        ('{"classes": {"a": "1"}}', "no such mapping in it"),
        ('{"classes": {"a": NaN}}', "no such mapping in it"),
        ('{"samples": {"a": 1, "a": 2}}', "'a' stands in it twice"),
        ('{"samples": {"a": -1}}', "'a' has a weight below 0: write weights of 0 or more"),
        ('{"samples": {"a": 0}}', "every weight is 0: write"),
        ("{", "no weights"),
    ],
)
def test_a_file_that_has_no_weights_says_what_to_write(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_weights(written(tmp_path, text))


def test_a_missing_file_of_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.json: cannot be read: No such file"):
        read_weights(tmp_path / "no.json")


def test_names_that_only_one_side_knows_are_told() -> None:
    weights = Weights(True, {"cat": Fraction(1), "cow": Fraction(1)})
    with pytest.raises(DataError, match="w: no weight for 'dog': correct the file"):
        by_name(weights, ["cat", "dog"], ["cat", "dog"], Path("w"))
    with pytest.raises(DataError, match="w: no class or training sample is called 'cow': correct"):
        by_name(weights, ["cat"], ["cat", "dog"], Path("w"))
    many = [f"k{n}" for n in range(9)]
    with pytest.raises(DataError, match=r"no weight for 'k0', 'k1', 'k2', 'k3', 'k4' \(and 4 more\)"):
        by_name(weights, many, many, Path("w"))


def test_samples_that_all_have_the_weight_0_are_told() -> None:
    with pytest.raises(DataError, match="w: the weight of every sample is 0"):
        weighted(np.arange(2), np.array([0, 1]), [Fraction(0)] * 2, 0, "w")
