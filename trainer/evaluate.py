"""Exact evaluation: every sample of the split once, no padding, the same numbers for any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from megabatch.data.loader import MicroBatch
from megabatch.trainer.engines.base import Engine
from megabatch.trainer.losses import cross_entropy
from megabatch.trainer.precision import PrecisionPolicy
from megabatch.trainer.preprocess import Normalize


@dataclass(frozen=True)
class EvaluationResult:
    """Mean cross-entropy (without smoothing), and the share of samples whose class is first or among the first 5."""

    split: str
    samples: int
    loss: float
    top1: float
    top5: float

    def better_than(self, other: float | None, metric: str) -> bool:
        """Return whether this is better than the best value so far: higher for top1, lower for loss."""
        if other is None:
            return True
        return self.top1 > other if metric == "top1" else self.loss < other

    def value(self, metric: str) -> float:
        """Return top1 or loss."""
        return self.top1 if metric == "top1" else self.loss


@torch.no_grad()
def evaluate(
    split: str, micro_batches: Iterator[MicroBatch], engine: Engine, precision: PrecisionPolicy, normalize: Normalize
) -> EvaluationResult:
    """Evaluate this rank's micro-batches and add up the sums of all ranks."""
    loss = cross_entropy(label_smoothing=0.0)
    engine.network.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=precision.device)  # samples, loss, first, among first 5
    for micro_batch in micro_batches:
        labels_N = micro_batch.labels_N.to(precision.device)
        with precision.autocast():
            logits_NK = engine.network(normalize(micro_batch.images_NHWC))
            batch_loss = loss(logits_NK, labels_N).sum()
        best_N5 = logits_NK.topk(min(5, logits_NK.shape[1]), dim=1).indices
        hits_N5 = best_N5 == labels_N[:, None]
        sums += torch.stack([
            torch.tensor(float(len(labels_N)), dtype=torch.float64, device=precision.device),
            batch_loss.double(), hits_N5[:, 0].sum().double(), hits_N5.sum().double(),
        ])  # fmt: skip
    engine.sum_over_ranks(sums)
    samples, loss_sum, first, among_five = sums.tolist()
    return EvaluationResult(split, int(samples), loss_sum / samples, first / samples, among_five / samples)
