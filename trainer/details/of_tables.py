"""Findings where the target is several classes or numbers: from the table of all outputs, which the metrics need too.

Shapes: N samples of the split, K outputs of the network. All arithmetic is in float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from megabatch.configs.targets import LabelsTarget, NumbersTarget
from megabatch.trainer.details.findings import MOST_MISTAKES, Mistake, rounded, worst_first
from megabatch.trainer.evaluate import plain_loss
from megabatch.trainer.metrics import Array, OutputTable, scale_of

_MOST_PREDICTIONS = 10


class TableFindings:
    """Looks at the table when the evaluation has filled it; every rank has all of it."""

    def __init__(self, target: LabelsTarget | NumbersTarget, table: OutputTable):
        self._target = target
        self._table = table

    def take_in(self, first: int, outputs_NK: torch.Tensor, targets: torch.Tensor, weights_N: torch.Tensor) -> None:
        """Take nothing in: the table has it."""

    def mistakes(self, num_ranks: int) -> list[Mistake]:
        """Return the samples of the greatest losses."""
        outputs_NK, targets_NK, counts_N = self._table.rows()
        losses_N = plain_loss(self._target)(outputs_NK, targets_NK)
        losses_N = torch.where(counts_N, losses_N, -math.inf)
        worst = losses_N.argsort(descending=True, stable=True)[:MOST_MISTAKES].tolist()
        return worst_first(
            [
                Mistake(position, losses_N[position].item(), self._told(outputs_NK[position], targets_NK[position]))
                for position in worst
                if counts_N[position]
            ]
        )

    def summary(self, num_ranks: int) -> dict[str, Any] | None:
        """Return `per_class`, or `per_output` of numbers."""
        outputs_NK, targets_NK = self._table.counted()
        if isinstance(self._target, NumbersTarget):
            return {"per_output": errors_of_outputs((outputs_NK - targets_NK) * scale_of(self._target))}
        return {"per_class": errors_of_classes(outputs_NK, targets_NK, self._table.precisions_K)}

    def _told(self, outputs_K: torch.Tensor, targets_K: torch.Tensor) -> dict[str, Any]:
        """Return the numbers in the unit of the data; of classes those it has, and the likeliest with probabilities."""
        if isinstance(self._target, NumbersTarget):
            mean, scale = np.array(self._target.mean or [0.0] * self._target.outputs), scale_of(self._target)
            targets, predictions = (mean + scale * values.cpu().numpy() for values in (targets_K, outputs_K))
            return {"targets": [*map(rounded, targets.tolist())], "predictions": [*map(rounded, predictions.tolist())]}
        likeliest = outputs_K.argsort(descending=True, stable=True)[:_MOST_PREDICTIONS].tolist()
        chances = outputs_K.sigmoid().tolist()
        return {
            "targets": targets_K.nonzero()[:, 0].tolist(),
            "predictions": [[number, rounded(chances[number])] for number in likeliest],
        }


def errors_of_outputs(errors_NK: Array) -> list[dict[str, Any]]:
    """Return mean absolute error and mean error of each output.

    >>> errors_of_outputs(np.array([[1.0], [-2.0]]))
    [{'output': 0, 'mae': 1.5, 'bias': -0.5}]
    """
    absolute, mean = np.abs(errors_NK).mean(axis=0).tolist(), errors_NK.mean(axis=0).tolist()
    return [
        {"output": number, "mae": rounded(mae), "bias": rounded(bias)}
        for number, (mae, bias) in enumerate(zip(absolute, mean, strict=True))
    ]


def errors_of_classes(outputs_NK: Array, labels_NK: Array, precisions_K: Array) -> list[dict[str, Any]]:
    """Return for each class how many samples have it, its average precision, and precision and recall at 1/2.

    What no sample can tell is None: precision where it is never found, the rest where no sample has it.
    """
    has, found = labels_NK > 0, outputs_NK > 0
    both, samples, answers = (counts.sum(axis=0).tolist() for counts in (has & found, has, found))
    return [
        {
            "class": number,
            "samples": samples[number],
            "average_precision": rounded(precision),
            "precision": rounded(both[number] / answers[number]) if answers[number] else None,
            "recall": rounded(both[number] / samples[number]) if samples[number] else None,
        }
        for number, precision in enumerate(precisions_K.tolist())
    ]
