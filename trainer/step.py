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
from megabatch.data.hashing import RandomStream, key
from megabatch.data.loader import MicroBatch
from megabatch.data.requests import Request
from megabatch.trainer.batch_augment.chain import BatchTransform
from megabatch.trainer.batch_norm import StepBatchNorm
from megabatch.trainer.engines.base import Engine
from megabatch.trainer.errors import TrainingError
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
    stop_requested: bool


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
    on_micro_batch: Callable[[Request], None]


def take_step(parts: StepParts, micro_batches: Iterator[MicroBatch], learning_rate: float) -> StepReport:
    """Train on the next global batch. Raises TrainingError, before the update, if the loss is not finite."""
    started = time.perf_counter()
    for group in parts.optimizer.param_groups:
        group["lr"] = learning_rate
    parts.engine.network.train()
    parts.batch_norm.begin()
    loss_sum, data_wait_seconds, request = _accumulate(parts, micro_batches)
    loss, stop_requested = _agree(parts, loss_sum, request)
    _refuse_infinite("loss", loss, request, parts.job.recipe)
    parts.precision.unscale(parts.optimizer)
    gradient_norm = _clip(parts, request)
    parts.precision.step(parts.optimizer)
    parts.optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - started
    return StepReport(
        request.step, request.epoch, request.step_samples, loss, learning_rate, gradient_norm,
        seconds, data_wait_seconds, stop_requested,
    )  # fmt: skip


def _accumulate(parts: StepParts, micro_batches: Iterator[MicroBatch]) -> tuple[torch.Tensor, float, Request]:
    """Run this rank's micro-batches of the step; return the sum of its losses and the seconds it waited for data."""
    loss_sum = torch.zeros((), dtype=torch.float64, device=parts.device)
    data_wait_seconds = 0.0
    while True:
        asked = time.perf_counter()
        micro_batch = next(micro_batches)
        data_wait_seconds += time.perf_counter() - asked
        parts.on_micro_batch(micro_batch.request)
        loss_sum += _forward_backward(parts, micro_batch)
        parts.batch_norm.collect(len(micro_batch.request.sample_ids))
        if micro_batch.request.last:
            return loss_sum, data_wait_seconds, micro_batch.request


def _forward_backward(parts: StepParts, micro_batch: MicroBatch) -> torch.Tensor:
    request = micro_batch.request
    torch.manual_seed(key(parts.job.recipe.seed, request.step, _NETWORK, request.number))
    images_NCHW = parts.normalize(micro_batch.images_NHWC)
    targets = micro_batch.labels_N.to(parts.device, non_blocking=True)
    stream = RandomStream(key(parts.job.recipe.seed, request.step, _BATCH_AUGMENT, request.number))
    images_NCHW, targets = parts.augment(images_NCHW, targets, stream)
    with parts.engine.accumulating(last=request.last):
        with parts.precision.autocast():
            loss = parts.loss(parts.engine(images_NCHW), targets).sum()
        weight = 0.0 if micro_batch.is_filler else 1.0
        parts.precision.scaled(loss * (weight / request.step_samples)).backward()  # type: ignore[no-untyped-call]
    return loss.detach().double() * weight


def _agree(parts: StepParts, loss_sum: torch.Tensor, request: Request) -> tuple[float, bool]:
    """One small sum over the ranks: the loss, the wish to stop, and the batch-norm statistics."""
    wish = torch.tensor([float(parts.stop_requested())], dtype=torch.float64, device=parts.device)
    sums = torch.cat([wish, loss_sum.reshape(1), parts.batch_norm.sums(parts.device)])
    parts.engine.sum_over_ranks(sums)
    parts.batch_norm.finish(sums[2:], request.step_samples)
    stop_wishes, total_loss = sums[:2].tolist()
    return total_loss / request.step_samples, stop_wishes > 0


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
