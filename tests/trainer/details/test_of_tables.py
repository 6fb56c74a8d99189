"""Findings of several classes at once and of numbers, compared with scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, precision_score, recall_score

from megabatch.configs.targets import LabelsTarget, NumbersTarget
from megabatch.trainer.details.of_tables import TableFindings
from megabatch.trainer.metrics import OutputTable

LABELS = LabelsTarget()
NUMBERS = NumbersTarget(member="txt", count=2, mean=(10.0, 0.0), std=(2.0, 0.5))


def table(target: LabelsTarget | NumbersTarget, outputs: torch.Tensor, targets: torch.Tensor) -> OutputTable:
    """Return a filled table; the first sample could not be loaded."""
    kept = OutputTable(target, *outputs.shape, torch.device("cpu"))
    weights = torch.ones(len(outputs))
    weights[0] = 0.0
    kept.add(0, outputs, targets, weights)
    kept.metrics()
    return kept


def test_of_several_classes_each_has_precision_recall_and_average_precision() -> None:
    generator = np.random.default_rng(3)
    outputs = torch.from_numpy(generator.normal(size=(60, 4)).astype(np.float32))
    targets = torch.from_numpy((generator.random((60, 4)) < 0.4).astype(np.float32))
    targets[:, 3] = 0.0
    findings = TableFindings(LABELS, table(LABELS, outputs, targets))
    summary = findings.summary(1)
    assert summary is not None
    for number, told in enumerate(summary["per_class"][:3]):
        has, score = targets[1:, number].numpy(), outputs[1:, number].numpy()
        assert (told["class"], told["samples"]) == (number, has.sum())
        assert told["precision"] == pytest.approx(precision_score(has, score > 0), rel=1e-3)
        assert told["recall"] == pytest.approx(recall_score(has, score > 0), rel=1e-3)
        assert told["average_precision"] == pytest.approx(average_precision_score(has, score), rel=1e-3)
    without = summary["per_class"][3]
    assert (without["samples"], without["average_precision"], without["recall"]) == (0, None, None)
    assert without["precision"] == 0.0


def test_the_worst_of_several_classes_come_with_their_classes_and_the_likeliest_ones() -> None:
    outputs = torch.tensor([[99.0, 99.0, 99.0], [3.0, -4.0, 0.0], [-9.0, 8.0, 1.0]])
    targets = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 1.0]])
    worst = TableFindings(LABELS, table(LABELS, outputs, targets)).mistakes(1)
    assert [mistake.position for mistake in worst] == [2, 1]  # without the first, which could not be loaded
    assert worst[0].told["targets"] == [0, 2]
    assert worst[0].told["predictions"] == [[1, 0.9997], [2, 0.7311], [0, 0.0001234]]


def test_numbers_are_told_in_the_unit_of_the_data() -> None:
    outputs = torch.tensor([[7.0, 7.0], [1.0, 0.0], [0.0, 2.0]])
    targets = torch.tensor([[0.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    findings = TableFindings(NUMBERS, table(NUMBERS, outputs, targets))
    assert findings.summary(1) == {
        "per_output": [{"output": 0, "mae": 3.0, "bias": -1.0}, {"output": 1, "mae": 0.5, "bias": 0.5}]
    }
    worst = findings.mistakes(1)
    assert [mistake.position for mistake in worst] == [2, 1]
    assert worst[0].told == {"targets": [14.0, 0.0], "predictions": [10.0, 1.0]}
