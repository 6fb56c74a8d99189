"""One optimizer step: micro-batches, gradient = sum over the global batch / its size, checks, clipping, update.

Shapes: N samples of a micro-batch, C = 3 channels, H and W pixels, K classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from megabatch.configs.job import Job
from megabatch.configs.recipe import Recipe
from megabatch.data.errors import SkippedSample
from megabatch.data.hashing import RandomStream, key
from megabatch.data.loader import MicroBatch
from megabatch.data.requests import Request
from megabatch.trainer.batch_augment.chain import BatchTransform
from megabatch.trainer.batch_norm import StepBatchNorm
from megabatch.trainer.engines.base import Engine
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.ledger import Ledger
from megabatch.trainer.losses import Loss
from megabatch.trainer.precision import PrecisionPolicy
from megabatch.trainer.preprocess import Normalize

_NETWORK = 4  # what a key is for: dropout, stochastic depth and whatever else draws from torch
_BATCH_AUGMENT = 6  # mixup and the like


@dataclass(frozen=True)
class StepReport:
    """What one step did. Equal on all ranks but for data_wait_seconds."""

    step: int
    epoch: int
    samples: int
    loss: float
    learning_rate: float
    gradient_norm: float | None
    seconds: float
    data_wait_seconds: float
    skipped_samples: int
    stop_requested: bool

    @property
    def data_wait_share(self) -> float:
        """Return the share of the step's time in which this rank waited for data, 0 to 1."""
        return self.data_wait_seconds / self.seconds


@dataclass(frozen=True)
class StepParts:
    """What a step works with."""

    job: Job
    device: torch.device
    engine: Engine
    optimizer: torch.optim.Optimizer
    precision: PrecisionPolicy
    normalize: Normalize
    augment: BatchTransform
    loss: Loss
    batch_norm: StepBatchNorm
    stop_requested: Callable[[], bool]
    ledger: Ledger
    on_micro_batch: Callable[[Request], None]


@dataclass
class _Sums:
    """What one rank adds up over its micro-batches of a step."""

    loss: torch.Tensor
    data_wait_seconds: float
    skipped: list[SkippedSample]


def take_step(parts: StepParts, micro_batches: Iterator[MicroBatch], learning_rate: float) -> StepReport:
    """Train on the next global batch. Raises TrainingError, before the update, if the loss is not finite."""
    started = time.perf_counter()
    for group in parts.optimizer.param_groups:
        group["lr"] = learning_rate
    parts.engine.network.train()
    parts.batch_norm.begin()
    sums, request = _accumulate(parts, micro_batches)
    loss, num_skipped, stop_requested = _agree(parts, sums, request)
    if num_skipped:
        parts.ledger.add(sums.skipped, parts.job.recipe.data.train_split, request)
    _refuse_infinite("loss", loss, request, parts.job.recipe)
    parts.precision.unscale(parts.optimizer)
    _divide_by_what_counts(parts, request.step_samples, num_skipped)
    gradient_norm = _clip(parts, request)
    parts.precision.step(parts.optimizer)
    parts.optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - started
    return StepReport(
        request.step, request.epoch, request.step_samples, loss, learning_rate, gradient_norm,
        seconds, sums.data_wait_seconds, num_skipped, stop_requested,
    )  # fmt: skip


def _accumulate(parts: StepParts, micro_batches: Iterator[MicroBatch]) -> tuple[_Sums, Request]:
    """Run this rank's micro-batches of the step."""
    sums = _Sums(torch.zeros((), dtype=torch.float64, device=parts.device), 0.0, [])
    while True:
        asked = time.perf_counter()
        micro_batch = next(micro_batches)
        sums.data_wait_seconds += time.perf_counter() - asked
        parts.on_micro_batch(micro_batch.request)
        sums.loss += _forward_backward(parts, micro_batch)
        sums.skipped += micro_batch.skipped
        parts.batch_norm.collect(len(micro_batch.request.sample_ids))
        if micro_batch.request.last:
            return sums, micro_batch.request


def _forward_backward(parts: StepParts, micro_batch: MicroBatch) -> torch.Tensor:
    request = micro_batch.request
    torch.manual_seed(key(parts.job.recipe.seed, request.step, _NETWORK, request.number))
    images_NCHW = parts.normalize(micro_batch.images_NHWC)
    targets = micro_batch.labels_N.to(parts.device, non_blocking=True)
    stream = RandomStream(key(parts.job.recipe.seed, request.step, _BATCH_AUGMENT, request.number))
    images_NCHW, targets = parts.augment(images_NCHW, targets, stream)
    with parts.engine.accumulating(last=request.last):
        with parts.precision.autocast():
            losses_N = parts.loss(parts.engine(images_NCHW), targets)
        loss = (losses_N * micro_batch.weights_N.to(losses_N, non_blocking=True)).sum()
        parts.precision.scaled(loss / request.step_samples).backward()  # type: ignore[no-untyped-call]
    return loss.detach().double()


def _agree(parts: StepParts, own: _Sums, request: Request) -> tuple[float, int, bool]:
    """One small sum over the ranks: the loss, skipped samples, the wish to stop, and the batch-norm statistics."""
    counts = [float(parts.stop_requested()), float(len(own.skipped))]
    head = torch.tensor(counts, dtype=torch.float64, device=parts.device)
    sums = torch.cat([head, own.loss.reshape(1), parts.batch_norm.sums(parts.device)])
    parts.engine.sum_over_ranks(sums)
    parts.batch_norm.finish(sums[3:], request.step_samples)
    stop_wishes, skipped, total_loss = sums[:3].tolist()
    return total_loss / max(request.step_samples - skipped, 1), int(skipped), stop_wishes > 0


def _divide_by_what_counts(parts: StepParts, step_samples: int, num_skipped: int) -> None:
    """Make the gradient the mean over the samples that count; it was divided by all of the step."""
    if num_skipped == 0:
        return
    factor = step_samples / max(step_samples - num_skipped, 1)
    for parameter in parts.engine.network.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(factor)


def _clip(parts: StepParts, request: Request) -> float | None:
    max_norm = parts.job.recipe.regularization.clip_norm
    if max_norm is None:
        return None
    gradient_norm = float(parts.engine.clip_gradients(max_norm))
    if parts.precision.scaler is None:  # with loss scaling an overflow is expected now and then, and skipped
        _refuse_infinite("gradient norm", gradient_norm, request, parts.job.recipe)
    return gradient_norm


def _refuse_infinite(what: str, value: float, request: Request, recipe: Recipe) -> None:
    if math.isfinite(value):
        return
    raise TrainingError(
        f"the {what} is {value} in step {request.step} (epoch {request.epoch}), before the optimizer update. "
        f"The learning rate of {recipe.optimizer.name} may be too high or the warmup too short "
        f"(optimizer.base_learning_rate, schedule.warmup_epochs); regularization.clip_norm helps against single spikes"
    )
