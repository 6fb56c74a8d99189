"""Confusions and the worst mistakes, compared with scikit-learn and with a plain look at all samples."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from megabatch.trainer.details import of_classes
from megabatch.trainer.details.findings import MOST_MISTAKES, rounded
from megabatch.trainer.details.of_classes import ClassFindings, summary_of

Case = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@st.composite
def splits(draw: st.DrawFn) -> Case:
    """Outputs with many equal ones, labels, and weights of which some are 0."""
    samples, classes = draw(st.integers(1, 120)), draw(st.integers(2, 7))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    outputs = torch.from_numpy(generator.integers(-2, 3, (samples, classes)).astype(np.float32))
    labels = torch.from_numpy(generator.integers(0, classes, samples))
    return outputs, labels, torch.from_numpy((generator.random(samples) > 0.1).astype(np.float64))


def found(case: Case, micro_batch: int, num_ranks: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what so many ranks find together, each after the other and in this process."""
    outputs, labels, weights = case
    ranks = [ClassFindings() for _ in range(num_ranks)]
    for number, first in enumerate(range(0, len(labels), micro_batch)):
        part = slice(first, first + micro_batch)
        ranks[number % num_ranks].take_in(first, outputs[part], labels[part], weights[part])
    told: list[Any] = []
    with monkeypatch.context() as patched:
        patched.setattr(of_classes, "gathered_json", lambda own, _: told.append(json.loads(json.dumps(own))) or [own])
        patched.setattr(of_classes, "gathered_rows", lambda rows, _: told.append(rows) or rows)
        for rank in ranks:
            rank.mistakes(num_ranks)
            rank.summary(num_ranks)
        patched.setattr(of_classes, "gathered_json", lambda *_: told[0::2])
        patched.setattr(of_classes, "gathered_rows", lambda *_: torch.cat(told[1::2]))
        summary = ranks[0].summary(num_ranks)
        assert summary is not None
        return {**summary, "mistakes": [(m.position, m.to_json()) for m in ranks[-1].mistakes(num_ranks)]}


@given(splits(), st.integers(1, 9), st.integers(1, 4))
def test_ranks_and_micro_batches_change_nothing_and_nothing_is_missing(case: Case, size: int, ranks: int) -> None:
    outputs, labels, weights = case
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(of_classes, "_SAMPLES_AT_ONCE", 7)
        patched.setattr(of_classes, "_MICRO_BATCHES_AT_ONCE", 2)
        alone, together = (found(case, *sizes, patched) for sizes in ((len(labels), 1), (size, ranks)))
    assert together == alone
    counts, predicted = weights > 0, outputs.topk(min(5, outputs.shape[1]), dim=1).indices[:, 0]
    classes = range(outputs.shape[1])
    if counts.any():
        matrix = confusion_matrix(labels[counts], predicted[counts], labels=list(classes))
        assert {(i, j): n for i, j, n in alone["confusion"]} == {
            (i, j): matrix[i, j] for i in classes for j in classes if matrix[i, j]
        }
        assert [tuple(row.values()) for row in alone["per_class"]] == [
            (i, matrix[i].sum(), matrix[i, i], matrix[:, i].sum()) for i in classes
        ]
    logarithms = outputs.log_softmax(dim=1)
    losses = -logarithms[torch.arange(len(labels)), labels].double()
    wrong = [n for n in range(len(labels)) if counts[n] and predicted[n] != labels[n]]
    worst = sorted(wrong, key=lambda n: (-losses[n], n))[:MOST_MISTAKES]
    assert [position for position, _ in alone["mistakes"]] == worst
    for position, told in alone["mistakes"]:
        assert (told["label"], told["predicted"]) == (labels[position], predicted[position])
        assert told["loss"] == rounded(losses[position].item())
        assert told["probability"] == pytest.approx(logarithms[position, predicted[position]].exp().item(), rel=1e-3)


def test_an_output_that_is_no_number_is_the_worst_mistake() -> None:
    findings = ClassFindings()
    outputs = torch.tensor([[0.0, 9.0], [float("nan"), 0.0], [5.0, 0.0]])
    findings.take_in(0, outputs, torch.tensor([0, 1, 0]), torch.ones(3))
    worst = findings.mistakes(1)
    assert [mistake.position for mistake in worst] == [1, 0]
    assert (worst[0].to_json()["loss"], worst[0].to_json()["probability"]) == (None, None)


def test_only_the_most_frequent_pairs_of_many_classes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_classes, "MOST_CELLS", 2)
    classes = 22_000
    pairs = np.array([[5, 1], [classes + 7, 3], [21_999 * classes + 21_999, 2]])
    told = summary_of(pairs, classes)
    assert told["confusion"] == [[1, 7, 3], [21_999, 21_999, 2]]
    assert told["confusion_cut"] is True
    assert len(told["per_class"]) == classes
    assert told["per_class"][0] == {"class": 0, "samples": 1, "correct": 0, "predicted": 0}
