"""Exact evaluation: every sample of the split once, no padding, the same numbers for any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from megabatch.configs.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError
from megabatch.configs.targets import ClassTarget, NumbersTarget, Target, is_better
from megabatch.data.errors import SkippedSample
from megabatch.data.loader import MicroBatch
from megabatch.data.read import Reader
from megabatch.trainer.engines.base import Engine
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.ledger import Ledger
from megabatch.trainer.losses import Loss, binary_cross_entropy, cross_entropy, mean_squared_error
from megabatch.trainer.metrics import Gathered
from megabatch.trainer.precision import PrecisionPolicy
from megabatch.trainer.preprocess import Normalize

_PASSES_BETWEEN_AGREEMENTS = 4
# Takes in a micro-batch: number of its first sample, outputs_NK, targets, weights_N.
TakeIn = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], None]


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


class EvaluationStoppedError(TrainingError):
    """A rank was asked to stop; raised on all of them."""


class Evaluated(NamedTuple):
    """What is evaluated: these samples of a split, `micro_batch` of them at a time, towards a target.

    `kept` is what the metrics are worked out from: of this rank while it goes on, and of all ranks afterwards.
    """

    split: str
    sample_ids: NDArray[np.int64]
    reader: Reader
    micro_batch: int
    target: Target
    outputs: int
    kept: Gathered

    @property
    def samples(self) -> int:
        """Return how many samples there are."""
        return len(self.sample_ids)


class EvaluateSplit(Protocol):
    """Evaluates a split with everything else put together already (build.py)."""

    def __call__(
        self,
        split: str,
        chosen: NDArray[np.int64] | None = None,
        also: Callable[[Evaluated], TakeIn] | None = None,
    ) -> EvaluationResult:
        """Return the result, the same on all ranks; `chosen` are sample ids of the split, where not all are meant.

        What `also` returns takes in all that this rank evaluates.
        """


@torch.no_grad()
def evaluate(
    what: Evaluated,
    micro_batches: Iterator[MicroBatch],
    engine: Engine,
    precision: PrecisionPolicy,
    normalize: Normalize,
    ledger: Ledger,
    stop_requested: Callable[[], bool],
    also: TakeIn | None = None,
) -> EvaluationResult:
    """Evaluate this rank's micro-batches and add up the sums of all ranks.

    Raises EvaluationStoppedError on all ranks, some passes after one of them was asked to stop.
    """
    loss = plain_loss(what.target)
    engine.network.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=precision.device)  # samples, loss, skipped, ranks asked to stop
    skipped: list[SkippedSample] = []
    for number, micro_batch in enumerate(micro_batches):
        if _stops(engine, number, stop_requested, precision.device):
            sums[3] += 1
            break
        targets = micro_batch.labels_N.to(precision.device)
        with precision.autocast():
            outputs_NK = engine.network(normalize(micro_batch.images_NHWC))
            losses_N = loss(outputs_NK, targets)
        if micro_batch.is_filler:
            continue
        weights_N = micro_batch.weights_N.to(precision.device, torch.float64)
        skipped += micro_batch.skipped
        first = micro_batch.request.number * what.micro_batch
        what.kept.add(first, outputs_NK, targets, weights_N)
        if also is not None:
            also(first, outputs_NK, targets, weights_N)
        sums[:2] += torch.stack([torch.ones_like(weights_N), losses_N.double()]) @ weights_N
        sums[2] += len(micro_batch.skipped)
    engine.sum_over_ranks(sums)
    samples, loss_sum, num_skipped, stopped = sums.tolist()
    if stopped:
        raise EvaluationStoppedError(f"the evaluation of split {what.split!r} was stopped on request")
    if num_skipped:
        ledger.add(skipped, what.split)
    if samples == 0:
        raise TrainingError(f"none of the {int(num_skipped):,} samples of split {what.split!r} could be loaded")
    engine.sum_over_ranks(what.kept.sums)
    return EvaluationResult(what.split, int(samples), int(num_skipped), loss_sum / samples, what.kept.metrics())


def _stops(engine: Engine, number: int, stop_requested: Callable[[], bool], device: torch.device) -> bool:
    """Return whether this rank makes no further pass. Where passes need all ranks they agree on it, now and then."""
    if not engine.same_number_of_passes:
        return stop_requested()
    if number % _PASSES_BETWEEN_AGREEMENTS:
        return False
    asked = torch.tensor(float(stop_requested()), device=device)
    engine.sum_over_ranks(asked)
    return bool(asked.item())


def plain_loss(target: Target) -> Loss:
    """Return the loss that evaluations show, the same for all runs whatever they train with."""
    if isinstance(target, ClassTarget):
        return cross_entropy(CrossEntropy(), 0.0, ())
    if isinstance(target, NumbersTarget):
        return mean_squared_error(MeanSquaredError(), 0.0, ())
    return binary_cross_entropy(BinaryCrossEntropy(), 0.0, ())
