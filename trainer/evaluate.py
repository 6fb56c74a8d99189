"""Exact evaluation: every sample of the split once, no padding, the same numbers for any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from megabatch.configs.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError
from megabatch.configs.targets import ClassTarget, NumbersTarget, Target, is_better
from megabatch.data.errors import SkippedSample
from megabatch.data.loader import MicroBatch
from megabatch.trainer.engines.base import Engine
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.ledger import Ledger
from megabatch.trainer.losses import Loss, binary_cross_entropy, cross_entropy, mean_squared_error
from megabatch.trainer.metrics import OutputTable, mean_average_precision, regression_metrics
from megabatch.trainer.precision import PrecisionPolicy
from megabatch.trainer.preprocess import Normalize


@dataclass(frozen=True)
class EvaluationResult:
    """Mean of the plain loss of the target, and its metrics by name (configs/targets.py).

    `samples` are those that counted; `skipped_samples` could not be loaded.
    """

    split: str
    samples: int
    skipped_samples: int
    loss: float
    metrics: dict[str, float]

    def better_than(self, other: float | None, metric: str) -> bool:
        """Return whether this is better than the best value so far."""
        return other is None or is_better(self.value(metric), other, metric)

    def value(self, metric: str) -> float:
        """Return a metric, or the loss."""
        return self.loss if metric == "loss" else self.metrics[metric]

    def to_json(self) -> dict[str, str | float]:
        """Return all of it as one level of plain values."""
        return {
            "split": self.split, "samples": self.samples, "skipped_samples": self.skipped_samples, "loss": self.loss,
            **self.metrics,
        }  # fmt: skip


class Evaluated(NamedTuple):
    """What is evaluated: a split of so many samples, `micro_batch` of them at a time, towards a target."""

    split: str
    samples: int
    micro_batch: int
    target: Target
    outputs: int


@torch.no_grad()
def evaluate(
    what: Evaluated,
    micro_batches: Iterator[MicroBatch],
    engine: Engine,
    precision: PrecisionPolicy,
    normalize: Normalize,
    ledger: Ledger,
) -> EvaluationResult:
    """Evaluate this rank's micro-batches and add up the sums of all ranks."""
    loss = _plain_loss(what.target)
    has_class = isinstance(what.target, ClassTarget)
    table = None if has_class else OutputTable(what.samples, what.outputs, precision.device)
    engine.network.eval()
    sums = torch.zeros(5, dtype=torch.float64, device=precision.device)  # samples, skipped, loss, first, among first 5
    skipped: list[SkippedSample] = []
    for micro_batch in micro_batches:
        targets = micro_batch.labels_N.to(precision.device)
        with precision.autocast():
            outputs_NK = engine.network(normalize(micro_batch.images_NHWC))
            losses_N = loss(outputs_NK, targets)
        weights_N = micro_batch.weights_N.to(precision.device, torch.float64)
        skipped += micro_batch.skipped
        hits_N5 = _hits(what.target, outputs_NK, targets)
        counted = torch.stack([torch.ones_like(weights_N), losses_N.double(), hits_N5[:, 0], hits_N5.sum(dim=1)])
        sums[[0, 2, 3, 4]] += counted @ weights_N
        sums[1] += len(micro_batch.skipped)
        if table is not None:
            table.put(micro_batch.request.number * what.micro_batch, outputs_NK, targets, weights_N)
    engine.sum_over_ranks(sums)
    samples, num_skipped, loss_sum, first, among_five = sums.tolist()
    if num_skipped:
        ledger.add(skipped, what.split)
    if samples == 0:
        raise TrainingError(f"none of the {int(num_skipped):,} samples of split {what.split!r} could be loaded")
    metrics = {"top1": first / samples}
    if table is None:
        metrics["top5"] = among_five / samples
    else:
        engine.sum_over_ranks(table.rows)
        metrics = _of_table(what.target, table, metrics["top1"])
    return EvaluationResult(what.split, int(samples), int(num_skipped), loss_sum / samples, metrics)


def _plain_loss(target: Target) -> Loss:
    """Return the loss that evaluations show, the same for all runs whatever they train with."""
    if isinstance(target, ClassTarget):
        return cross_entropy(CrossEntropy(), 0.0, ())
    if isinstance(target, NumbersTarget):
        return mean_squared_error(MeanSquaredError(), 0.0, ())
    return binary_cross_entropy(BinaryCrossEntropy(), 0.0, ())


def _hits(target: Target, outputs_NK: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return for each sample which of its (at most 5) highest outputs are its class, or one of its classes."""
    if isinstance(target, NumbersTarget):
        return torch.zeros_like(outputs_NK[:, :1], dtype=torch.float64)
    best_N5 = outputs_NK.topk(min(5, outputs_NK.shape[1]), dim=1).indices
    if isinstance(target, ClassTarget):
        return (best_N5 == targets[:, None]).double()
    return targets.gather(1, best_N5).double()


def _of_table(target: Target, table: OutputTable, top1: float) -> dict[str, float]:
    outputs_NK, targets_NK = table.counted()
    if isinstance(target, NumbersTarget):
        return regression_metrics(outputs_NK, targets_NK, np.array(target.std or [1.0] * target.outputs))
    return {"map": mean_average_precision(outputs_NK, targets_NK), "top1": top1}
