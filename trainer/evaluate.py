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
from megabatch.trainer.metrics import OutputTable, mean_average_precision, regression_metrics, top1_of_labels
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
    sums = torch.zeros(5, dtype=torch.float64, device=precision.device)  # samples, loss, first, among first 5, skipped
    skipped: list[SkippedSample] = []
    for micro_batch in micro_batches:
        targets = micro_batch.labels_N.to(precision.device)
        with precision.autocast():
            outputs_NK = engine.network(normalize(micro_batch.images_NHWC))
            losses_N = loss(outputs_NK, targets)
        weights_N = micro_batch.weights_N.to(precision.device, torch.float64)
        skipped += micro_batch.skipped
        counted = [torch.ones_like(weights_N), losses_N.double()]
        if table is None:
            counted += _hits(outputs_NK, targets)
        else:
            table.put(micro_batch.request.number * what.micro_batch, outputs_NK, targets, weights_N)
        sums[: len(counted)] += torch.stack(counted) @ weights_N
        sums[-1] += len(micro_batch.skipped)
    engine.sum_over_ranks(sums)
    samples, loss_sum, first, among_five, num_skipped = sums.tolist()
    if num_skipped:
        ledger.add(skipped, what.split)
    if samples == 0:
        raise TrainingError(f"none of the {int(num_skipped):,} samples of split {what.split!r} could be loaded")
    if table is None:
        metrics = {"top1": first / samples, "top5": among_five / samples}
    else:
        engine.sum_over_ranks(table.rows)
        metrics = _of_table(what.target, table)
    return EvaluationResult(what.split, int(samples), int(num_skipped), loss_sum / samples, metrics)


def _plain_loss(target: Target) -> Loss:
    """Return the loss that evaluations show, the same for all runs whatever they train with."""
    if isinstance(target, ClassTarget):
        return cross_entropy(CrossEntropy(), 0.0, ())
    if isinstance(target, NumbersTarget):
        return mean_squared_error(MeanSquaredError(), 0.0, ())
    return binary_cross_entropy(BinaryCrossEntropy(), 0.0, ())


def _hits(outputs_NK: torch.Tensor, labels_N: torch.Tensor) -> list[torch.Tensor]:
    """Return for each sample whether its class has the highest output, and whether it is among the first 5."""
    best_N5 = outputs_NK.topk(min(5, outputs_NK.shape[1]), dim=1).indices
    hits_N5 = (best_N5 == labels_N[:, None]).double()
    return [hits_N5[:, 0], hits_N5.sum(dim=1)]


def _of_table(target: Target, table: OutputTable) -> dict[str, float]:
    outputs_NK, targets_NK = table.counted()
    if isinstance(target, NumbersTarget):
        return regression_metrics(outputs_NK, targets_NK, np.array(target.std or [1.0] * target.outputs))
    return {"map": mean_average_precision(outputs_NK, targets_NK), "top1": top1_of_labels(outputs_NK, targets_NK)}
