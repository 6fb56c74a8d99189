"""Findings where the target is one class: how often each class was taken for which, and the surest wrong answers.

Counts are kept of the pairs that occurred and of no others: 22,000 classes have 484 million pairs.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from megabatch.trainer.details.findings import MOST_MISTAKES, Mistake, rounded, worst_first
from megabatch.trainer.gathered import gathered_json, gathered_rows

MOST_CELLS = 20_000
_SAMPLES_AT_ONCE = 1 << 20
_MICRO_BATCHES_AT_ONCE = 64
_LOSS = 3

Counts = NDArray[np.int64]  # rows of a pair, class * classes + predicted class, and how often it was seen


class ClassFindings:
    """Keeps counts of pairs, and candidates for the worst mistakes."""

    def __init__(self) -> None:
        self._num_classes = 0  # as many as the network has outputs
        self._counts: Counts = np.zeros((0, 2), dtype=np.int64)
        self._pairs: list[torch.Tensor] = []  # not counted yet
        self._uncounted = 0
        # Columns: position, class, predicted class, loss, logarithm of the predicted class's probability.
        self._worst: list[torch.Tensor] = []

    def take_in(self, first: int, outputs_NK: torch.Tensor, targets: torch.Tensor, weights_N: torch.Tensor) -> None:
        """Take in a micro-batch; targets are labels_N. Waits for nothing that a GPU has still to do."""
        self._num_classes = outputs_NK.shape[1]
        logarithms_NK = outputs_NK.float().log_softmax(dim=1)
        # The same call as for the metric top1, so that of two equal outputs the same one counts as the higher.
        predicted_N = outputs_NK.topk(min(5, outputs_NK.shape[1]), dim=1).indices[:, 0]
        told = logarithms_NK.gather(1, torch.stack([targets, predicted_N], dim=1)).double()
        positions_N = torch.arange(first, first + len(targets), dtype=torch.float64, device=targets.device)
        rows_N5 = torch.stack([positions_N, targets.double(), predicted_N.double(), -told[:, 0], told[:, 1]], dim=1)
        is_mistake = (weights_N > 0) & (predicted_N != targets)
        rows_N5[:, _LOSS] = torch.where(is_mistake, rows_N5[:, _LOSS], -math.inf)
        self._worst.append(_worst(rows_N5))
        self._pairs.append(torch.where(weights_N > 0, targets * self._num_classes + predicted_N, -1))
        self._uncounted += len(targets)
        if self._uncounted >= _SAMPLES_AT_ONCE:
            self._count()
        if len(self._worst) >= _MICRO_BATCHES_AT_ONCE:
            self._worst = [_worst(torch.cat(self._worst))]

    def mistakes(self, num_ranks: int) -> list[Mistake]:
        """Return the worst wrong answers of all ranks."""
        rows = torch.cat(self._worst) if self._worst else torch.zeros(0, 5)
        own = rows[rows[:, _LOSS] != -math.inf].tolist()
        return worst_first([_mistake(row) for of_rank in gathered_json(own, num_ranks) for row in of_rank])

    def summary(self, num_ranks: int) -> dict[str, Any] | None:
        """Return `per_class` and `confusion`."""
        self._count()
        rows = gathered_rows(torch.from_numpy(self._counts), num_ranks)
        return None if rows is None else summary_of(_added_up(rows.numpy()), self._num_classes)

    def _count(self) -> None:
        if not self._pairs:
            return
        pairs = torch.cat(self._pairs).cpu().numpy()
        seen = np.stack(np.unique(pairs[pairs >= 0], return_counts=True), axis=1)
        self._counts = _added_up(np.concatenate([self._counts, seen]))
        self._pairs, self._uncounted = [], 0


def summary_of(counts: Counts, num_classes: int) -> dict[str, Any]:
    """Return the samples of each class, how many of them were right, how often it was the answer; and the pairs.

    >>> summary_of(np.array([[0, 3], [1, 1], [3, 2]]), 2)["confusion"]
    [[0, 0, 3], [1, 1, 2], [0, 1, 1]]
    """
    true, predicted = np.divmod(counts[:, 0], num_classes)
    right = true == predicted
    sums = [
        np.bincount(classes, of, minlength=num_classes).astype(int).tolist()
        for classes, of in ((true, counts[:, 1]), (true, counts[:, 1] * right), (predicted, counts[:, 1]))
    ]
    by_size = np.lexsort((counts[:, 0], -counts[:, 1]))[:MOST_CELLS]
    cells = np.stack([true, predicted, counts[:, 1]], axis=1)[by_size]
    return {
        "per_class": [
            {"class": number, "samples": samples, "correct": correct, "predicted": answers}
            for number, (samples, correct, answers) in enumerate(zip(*sums, strict=True))
        ],
        "confusion": cells.tolist(),
        "confusion_cut": len(counts) > MOST_CELLS,
    }


def _added_up(counts: Counts) -> Counts:
    """Return every pair once, sorted."""
    pairs, of_pair = np.unique(counts[:, 0], return_inverse=True)
    return np.stack([pairs, np.bincount(of_pair, counts[:, 1], minlength=len(pairs)).astype(np.int64)], axis=1)


def _worst(rows_N5: torch.Tensor) -> torch.Tensor:
    """Return the rows with the greatest losses; of equal ones the first: the ranks change nothing."""
    return rows_N5[rows_N5[:, _LOSS].argsort(descending=True, stable=True)[:MOST_MISTAKES]]


def _mistake(row: list[float]) -> Mistake:
    position, label, predicted, loss, logarithm = row
    told = {
        "label": int(label), "predicted": int(predicted), "probability": rounded(math.exp(logarithm)),
        "label_probability": rounded(math.exp(-loss)),
    }  # fmt: skip
    return Mistake(int(position), loss, told)
