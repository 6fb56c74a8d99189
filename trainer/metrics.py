"""Metrics of a whole split, exact whatever the ranks and batches: two ways to gather what they need, both by sums.

Shapes: N samples, K outputs of the network (classes, or numbers). All arithmetic is in float64. The definitions are
scikit-learn's, which is imported only when one of them is asked for: it takes a second.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from megabatch.configs.targets import ClassTarget, NumbersTarget, Target

Array = NDArray[np.float64]


class Gathered(Protocol):
    """What is kept of the outputs of a split; `sums`, added up over the ranks, are those of all samples."""

    sums: torch.Tensor

    def add(self, first: int, outputs_NK: torch.Tensor, targets: torch.Tensor, weights_N: torch.Tensor) -> None:
        """Take in the samples from position `first` on; one of weight 0 is left out of the metrics."""

    def metrics(self) -> dict[str, float]:
        """Return the metrics by name (configs/targets.py)."""


def gathered(target: Target, samples: int, outputs: int, device: torch.device) -> Gathered:
    """Return what the metrics of a target are worked out from."""
    return TopHits(device) if isinstance(target, ClassTarget) else OutputTable(target, samples, outputs, device)


class TopHits:
    """How many samples have their class at the highest output, among the five highest, and how many there are."""

    def __init__(self, device: torch.device):
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, first: int, outputs_NK: torch.Tensor, targets: torch.Tensor, weights_N: torch.Tensor) -> None:
        """Take in samples; targets are labels_N."""
        best_N5 = outputs_NK.topk(min(5, outputs_NK.shape[1]), dim=1).indices
        hits_N5 = (best_N5 == targets[:, None]).double()
        self.sums += torch.stack([hits_N5[:, 0], hits_N5.sum(dim=1), torch.ones_like(weights_N)]) @ weights_N

    def metrics(self) -> dict[str, float]:
        """Return `top1` and `top5`, shares of the samples."""
        first, among_five, samples = self.sums.tolist()
        return {"top1": first / samples, "top5": among_five / samples}


class OutputTable:
    """Outputs and targets of every sample of a split, each in the row of its position; a rank fills its own rows.

    The sum over the ranks is the whole table, as every sample is evaluated once. It takes 8 * (2 K + 1) bytes a sample.
    """

    def __init__(self, target: Target, samples: int, outputs: int, device: torch.device):
        self.target = target
        self.sums = torch.zeros(samples, 2 * outputs + 1, dtype=torch.float64, device=device)
        self.precisions_K: Array = np.zeros(0)  # average precision of each of several labels, by `metrics`

    def add(self, first: int, outputs_NK: torch.Tensor, targets: torch.Tensor, weights_N: torch.Tensor) -> None:
        """Fill rows; targets are targets_NK."""
        parts = (outputs_NK.double(), targets.double(), weights_N.double()[:, None])
        self.sums[first : first + len(outputs_NK)] = torch.cat(parts, dim=1)

    def metrics(self) -> dict[str, float]:
        """Return `mae`, `mse` and `r2` of numbers, `map` and `top1` of several labels."""
        outputs_NK, targets_NK = self.counted()
        if isinstance(self.target, NumbersTarget):
            return regression_metrics(outputs_NK, targets_NK, scale_of(self.target))
        self.precisions_K = average_precisions(outputs_NK, targets_NK)
        return {
            "map": mean_over_classes(self.precisions_K, outputs_NK), "top1": top1_of_labels(outputs_NK, targets_NK)
        }  # fmt: skip

    def counted(self) -> tuple[Array, Array]:
        """Return outputs_NK and targets_NK of the samples that count."""
        outputs_NK, targets_NK, counts_N = self.rows()
        outputs, targets = outputs_NK[counts_N].cpu().numpy(), targets_NK[counts_N].cpu().numpy()
        return outputs, targets

    def rows(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return outputs_NK, targets_NK and whether a sample counts of all samples."""
        outputs = self.sums.shape[1] // 2
        return self.sums[:, :outputs], self.sums[:, outputs:-1], self.sums[:, -1] > 0


def scale_of(target: NumbersTarget) -> Array:
    """Return scale_K, what an error of 1 means in the unit of the data."""
    return np.array(target.std or [1.0] * target.outputs)


def regression_metrics(outputs_NK: Array, targets_NK: Array, scale_K: Array) -> dict[str, float]:
    """Return mean absolute error, mean squared error and R2: of each number, and then their mean.

    `scale_K` is what an error of 1 means in the unit of the data. R2 of targets that are all equal is 1 without any
    error and else 0; of a single sample it is nan, and so is everything if an output is not finite.
    """
    if not np.isfinite(outputs_NK).all():
        return dict.fromkeys(("mae", "mse", "r2"), float("nan"))
    from sklearn import metrics

    in_unit = (targets_NK * scale_K, outputs_NK * scale_K)
    return {
        "mae": float(metrics.mean_absolute_error(*in_unit)),
        "mse": float(metrics.mean_squared_error(*in_unit)),
        "r2": float(metrics.r2_score(*in_unit)) if len(outputs_NK) > 1 else float("nan"),
    }


def mean_average_precision(outputs_NK: Array, labels_NK: Array) -> float:
    """Return the mean of the average precision over the classes that at least one sample has; 0 if there is none.

    It is nan if an output is not finite.
    """
    return mean_over_classes(average_precisions(outputs_NK, labels_NK), outputs_NK)


def mean_over_classes(precisions_K: Array, outputs_NK: Array) -> float:
    """Return that mean of average precisions that are known already."""
    known = ~np.isnan(precisions_K)
    if not np.isfinite(outputs_NK).all():
        return float("nan")
    return float(precisions_K[known].mean()) if known.any() else 0.0


def average_precisions(outputs_NK: Array, labels_NK: Array) -> Array:
    """Return the average precision of each class; nan for one that no sample has, and for an output that is not finite.

    Samples of equal score are taken at once and nothing is interpolated.
    """
    from sklearn import metrics

    known = labels_NK.any(axis=0) & np.isfinite(outputs_NK).all(axis=0)
    precisions_K = np.full(outputs_NK.shape[1], np.nan)
    for number in np.flatnonzero(known):
        precisions_K[number] = metrics.average_precision_score(labels_NK[:, number] > 0, outputs_NK[:, number])
    return precisions_K


def top1_of_labels(outputs_NK: Array, labels_NK: Array) -> float:
    """Return the share of samples whose highest output is one of their classes, of those that have any; 0 if none."""
    has_any_N = labels_NK.any(axis=1)
    hits_N = labels_NK[np.arange(len(labels_NK)), outputs_NK.argmax(axis=1)] > 0
    return float(hits_N[has_any_N].mean()) if has_any_N.any() else 0.0
