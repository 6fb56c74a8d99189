"""Exact evaluation: every sample of the split once, no padding, the same numbers for any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from megabatch.configs.losses import CrossEntropy
from megabatch.data.errors import SkippedSample
from megabatch.data.loader import MicroBatch
from megabatch.trainer.engines.base import Engine
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.ledger import Ledger
from megabatch.trainer.losses import cross_entropy
from megabatch.trainer.precision import PrecisionPolicy
from megabatch.trainer.preprocess import Normalize


@dataclass(frozen=True)
class EvaluationResult:
    """Mean cross-entropy (without smoothing), and the share of samples whose class is first or among the first 5.

    `samples` are those that counted; `skipped_samples` could not be loaded.
    """

    split: str
    samples: int
    skipped_samples: int
    loss: float
    top1: float
    top5: float

    def better_than(self, other: float | None, metric: str) -> bool:
        """Return whether this is better than the best value so far: higher for top1, lower for loss."""
        if other is None:
            return True
        value = self.value(metric)
        return value > other if higher_is_better(metric) else value < other

    def value(self, metric: str) -> float:
        """Return top1 or loss."""
        return self.top1 if metric == "top1" else self.loss


def higher_is_better(metric: str) -> bool:
    """Return which way a metric improves."""
    return metric == "top1"


@torch.no_grad()
def evaluate(
    split: str,
    micro_batches: Iterator[MicroBatch],
    engine: Engine,
    precision: PrecisionPolicy,
    normalize: Normalize,
    ledger: Ledger,
) -> EvaluationResult:
    """Evaluate this rank's micro-batches and add up the sums of all ranks."""
    loss = cross_entropy(CrossEntropy(), 0.0, ())
    engine.network.eval()
    sums = torch.zeros(5, dtype=torch.float64, device=precision.device)  # samples, skipped, loss, first, among first 5
    skipped: list[SkippedSample] = []
    for micro_batch in micro_batches:
        labels_N = micro_batch.labels_N.to(precision.device)
        with precision.autocast():
            logits_NK = engine.network(normalize(micro_batch.images_NHWC))
            losses_N = loss(logits_NK, labels_N)
        weights_N = micro_batch.weights_N.to(precision.device, torch.float64)
        skipped += micro_batch.skipped
        best_N5 = logits_NK.topk(min(5, logits_NK.shape[1]), dim=1).indices
        hits_N5 = (best_N5 == labels_N[:, None]).double()
        counted = torch.stack([torch.ones_like(weights_N), losses_N.double(), hits_N5[:, 0], hits_N5.sum(dim=1)])
        sums[[0, 2, 3, 4]] += counted @ weights_N
        sums[1] += len(micro_batch.skipped)
    engine.sum_over_ranks(sums)
    samples, num_skipped, loss_sum, first, among_five = sums.tolist()
    if num_skipped:
        ledger.add(skipped, split)
    if samples == 0:
        raise TrainingError(f"none of the {int(num_skipped):,} samples of split {split!r} could be loaded")
    return EvaluationResult(
        split, int(samples), int(num_skipped), loss_sum / samples, first / samples, among_five / samples
    )
