"""Metrics of a whole split from the outputs and targets of all its samples: exact, whatever the ranks and batches.

Shapes: N samples, K outputs of the network (classes, or numbers). All arithmetic is in float64.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]


class OutputTable:
    """Outputs and targets of every sample of a split, each in the row of its position; a rank fills its own rows.

    The sum over the ranks is the whole table, as every sample is evaluated once. It takes 8 * (2 K + 1) bytes a sample.
    """

    def __init__(self, samples: int, outputs: int, device: torch.device):
        self.rows = torch.zeros(samples, 2 * outputs + 1, dtype=torch.float64, device=device)

    def put(self, first: int, outputs_NK: torch.Tensor, targets_NK: torch.Tensor, weights_N: torch.Tensor) -> None:
        """Fill the rows from position `first` on; a sample of weight 0 is left out of the metrics."""
        parts = (outputs_NK.double(), targets_NK.double(), weights_N.double()[:, None])
        self.rows[first : first + len(outputs_NK)] = torch.cat(parts, dim=1)

    def counted(self) -> tuple[Array, Array]:
        """Return outputs_NK and targets_NK of the samples that count."""
        rows: Array = self.rows.cpu().numpy()
        outputs = rows.shape[1] // 2
        rows = rows[rows[:, -1] > 0]
        return rows[:, :outputs], rows[:, outputs:-1]


def regression_metrics(outputs_NK: Array, targets_NK: Array, scale_K: Array) -> dict[str, float]:
    """Return mean absolute error, mean squared error and R2: of each number, and then their mean.

    `scale_K` is what an error of 1 means in the unit of the data. R2 is `1 - sum of squared errors / sum of squared
    distances to the mean target`; where all targets are equal it is 1 without any error and else 0, as in scikit-learn.
    """
    errors_NK = (outputs_NK - targets_NK) * scale_K
    squares_K = (errors_NK**2).sum(axis=0)
    spread_K = (((targets_NK - targets_NK.mean(axis=0)) * scale_K) ** 2).sum(axis=0)
    constant = np.where(squares_K == 0, 1.0, 0.0)
    ratios_K = np.divide(squares_K, spread_K, out=np.zeros_like(squares_K), where=spread_K > 0)
    r2_K = np.where(spread_K > 0, 1 - ratios_K, constant)
    return {
        "mae": float(np.abs(errors_NK).mean(axis=0).mean()),
        "mse": float((squares_K / len(errors_NK)).mean()),
        "r2": float(r2_K.mean()),
    }


def mean_average_precision(outputs_NK: Array, labels_NK: Array) -> float:
    """Return the mean of the average precision over the classes that at least one sample has; 0 if there is none."""
    found = [
        average_precision(scores_N, labels_N > 0)
        for scores_N, labels_N in zip(outputs_NK.T, labels_NK.T, strict=True)
        if labels_N.any()
    ]
    return float(np.mean(found)) if found else 0.0


def top1_of_labels(outputs_NK: Array, labels_NK: Array) -> float:
    """Return the share of samples whose highest output is one of their classes, of those that have any; 0 if none."""
    has_any_N = labels_NK.any(axis=1)
    hits_N = labels_NK[np.arange(len(labels_NK)), outputs_NK.argmax(axis=1)] > 0
    return float(hits_N[has_any_N].mean()) if has_any_N.any() else 0.0


def average_precision(scores_N: Array, positive_N: NDArray[np.bool_]) -> float:
    """Return `sum_t (recall_t - recall_(t - 1)) * precision_t` over the different scores t, from the highest down.

    Samples of equal score are taken at once, so their order plays no part, and nothing is interpolated: the definition
    of scikit-learn's average_precision_score. A score that is not a number makes it nan.
    """
    if np.isnan(scores_N).any():
        return float("nan")
    order = np.argsort(-scores_N, kind="stable")
    scores_N, positive_N = scores_N[order], positive_N[order]
    last_of_score = np.append(np.flatnonzero(scores_N[1:] != scores_N[:-1]), len(scores_N) - 1)
    hits = np.cumsum(positive_N)[last_of_score].astype(np.float64)
    precisions = hits / (last_of_score + 1)
    return float((np.diff(hits, prepend=0.0) * precisions).sum() / hits[-1])
