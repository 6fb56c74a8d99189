"""One optimizer step: micro-batches, gradient = sum over the global batch / its size, checks, clipping, update.

Shapes: N samples of a micro-batch, C = 3 channels, H and W pixels, K classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch import nn

from megabatch.configs.job import Job
from megabatch.data.errors import SkippedSample
from megabatch.data.hashing import RandomStream, key
from megabatch.data.loader import MicroBatch
from megabatch.data.requests import Request
from megabatch.trainer.averaging import WeightAverage
from megabatch.trainer.batch_augment.chain import BatchTransform
from megabatch.trainer.batch_norm import StepBatchNorm
from megabatch.trainer.clipping import add_penalties, clip
from megabatch.trainer.distillation.distill import Distiller
from megabatch.trainer.engines.base import Engine
from megabatch.trainer.guard import harm_of
from megabatch.trainer.ledger import Ledger
from megabatch.trainer.losses import Loss
from megabatch.trainer.noise_scale import NoiseAverages, squared_norm
from megabatch.trainer.optim.thaw import Thaw
from megabatch.trainer.precision import PrecisionPolicy
from megabatch.trainer.preprocess import Normalize
from megabatch.trainer.pruning.sparse import WeightMasks
from megabatch.trainer.seeding import NetworkSeed
from megabatch.trainer.state import TrainState
from megabatch.trainer.update_ratio import update_ratio

_BATCH_AUGMENT = 6  # what a key is for: mixup and the like


class StepReport(NamedTuple):
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
    noise_scale: float | None = None
    passed_over: str | None = None
    update_ratio: float | None = None
    save_due: bool = False
    distillation_loss: float | None = None
    micro_batch_losses: Sequence[torch.Tensor] = ()  # of this rank: their shares of the loss

    @property
    def data_wait_share(self) -> float:
        """Return the share of the step's time in which this rank waited for data, 0 to 1."""
        return self.data_wait_seconds / self.seconds


@dataclass(frozen=True)
class StepParts:
    """What a step works with."""

    job: Job
    device: torch.device
    seed_network: NetworkSeed
    engine: Engine
    parameters: tuple[nn.Parameter, ...]
    decayed: tuple[nn.Parameter, ...]
    optimizer: torch.optim.Optimizer
    precision: PrecisionPolicy
    normalize: Normalize
    augment: BatchTransform | None
    loss: Loss
    batch_norm: StepBatchNorm
    stop_requested: Callable[[], bool]
    ledger: Ledger
    average: WeightAverage | None
    on_micro_batch: Callable[[Request], None]
    save_due: Callable[[], bool] | None = None  # only where the recipe saves by time
    masks: WeightMasks | None = None  # only where the recipe prunes weights
    distiller: Distiller | None = None
    thaw: Thaw | None = None
    add_ewc: Callable[[], None] | None = None  # adds the gradient of elastic weight consolidation

    @cached_property
    def finishes_gradient(self) -> bool:
        """Return whether the recipe asks for anything between the backward pass and the update."""
        recipe, settings = self.job.recipe, self.job.recipe.regularization
        changes = self.precision.scaler is not None or settings.l1 or settings.l2 or settings.ewc or settings.clips
        return bool(changes or recipe.tracking.gradient_norm or recipe.stability.guards)


@dataclass(slots=True)
class _Sums:
    """What one rank adds up over its micro-batches of a step."""

    losses: list[torch.Tensor] = field(default_factory=list)
    samples: int = 0
    small_gradient: torch.Tensor | None = None
    small_samples: int = 0
    data_wait_seconds: float = 0.0
    skipped: list[SkippedSample] = field(default_factory=list)


def take_step(
    parts: StepParts, micro_batches: Iterator[MicroBatch], learning_rate: float, state: TrainState
) -> StepReport:
    """Train on the next global batch. A bad step (guard.py) has no update; its report says why."""
    recipe = parts.job.recipe
    started = time.perf_counter()
    for group in parts.optimizer.param_groups:
        group["lr"] = learning_rate * group["learning_rate_factor"]
    if not parts.engine.network.training:
        parts.engine.network.train()
    parts.batch_norm.begin()
    sums, request = _accumulate(parts, micro_batches)
    loss, num_skipped, stop_requested, save_due = _agree(parts, sums, request)
    if num_skipped:
        parts.ledger.add(sums.skipped, recipe.data.train_split, request)
    if recipe.tracking.noise_scale and not num_skipped and math.isfinite(loss):
        _measure_noise(parts, sums, request, state.noise)
    if parts.masks is not None:
        parts.masks.mask_gradients()
    if parts.thaw is not None:
        parts.thaw.hold_back(request.step)
    gradient_norm = _finish_gradient(parts, request, num_skipped) if num_skipped or parts.finishes_gradient else None
    known = gradient_norm if parts.precision.scaler is None else None  # loss scaling leaves out overflows itself
    harm = harm_of(recipe.stability, state.guard, request.step, loss, known)
    ratio = _update(parts, request.step) if harm is None else None
    if harm is not None:
        parts.precision.pass_over()
        parts.engine.pass_over()
        parts.batch_norm.undo()
    if parts.thaw is not None:
        parts.thaw.show_all()
    if parts.masks is not None:
        averaged = parts.average.tensors() if parts.average is not None else {}
        parts.masks.after_step(request.step + 1, parts.optimizer, averaged)
    for parameter in parts.parameters:
        parameter.grad = None
    distance = parts.distiller.of_step(request.step, parts.engine.sum_over_ranks) if parts.distiller else None
    return StepReport(
        request.step, request.epoch, request.step_samples, loss, learning_rate, gradient_norm,
        time.perf_counter() - started, sums.data_wait_seconds, num_skipped, stop_requested,
        state.noise.noise_scale if recipe.tracking.noise_scale else None, harm, ratio, save_due,
        distance and distance * _factor(request.step_samples, num_skipped), sums.losses,
    )  # fmt: skip


def _update(parts: StepParts, step: int) -> float | None:
    """Let the optimizer step; return the size of the update relative to the weights, if it is to be logged."""
    ratio = None
    tracking = parts.job.recipe.tracking
    if tracking.update_ratio and (step + 1) % tracking.every_steps == 0:
        shared = parts.engine.sum_over_ranks if parts.engine.sharded else None
        ratio = update_ratio(parts.parameters, lambda: parts.engine.step(parts.precision, parts.optimizer), shared)
    else:
        parts.engine.step(parts.precision, parts.optimizer)
    if parts.average is not None:
        parts.average.after_step(step + 1)
    return ratio


def _accumulate(parts: StepParts, micro_batches: Iterator[MicroBatch]) -> tuple[_Sums, Request]:
    """Run this rank's micro-batches of the step."""
    sums = _Sums()
    measure_first = parts.job.recipe.tracking.noise_scale and parts.engine.num_ranks == 1
    while True:
        asked = time.perf_counter()
        micro_batch = next(micro_batches)
        sums.data_wait_seconds += time.perf_counter() - asked
        request = micro_batch.request
        parts.on_micro_batch(request)
        sums.losses.append(_forward_backward(parts, micro_batch))
        if micro_batch.skipped:
            sums.skipped += micro_batch.skipped
        parts.batch_norm.collect(len(request.sample_ids))
        sums.samples += len(request.sample_ids)
        if request.last:
            return sums, request
        if measure_first and sums.small_gradient is None:
            sums.small_gradient = squared_norm(p.grad for p in parts.parameters if p.grad is not None)
            sums.small_samples = sums.samples


def _forward_backward(parts: StepParts, micro_batch: MicroBatch) -> torch.Tensor:
    """Add a micro-batch's share to the gradient; return its share of the mean loss.

    The gradient of the mean over the step goes straight into the losses of the samples: nothing is added up first.
    """
    request = micro_batch.request
    parts.batch_norm.expect(len(request.sample_ids))
    parts.seed_network(request.step, request.number)
    images_NCHW = parts.normalize(micro_batch.images_NHWC)
    targets = micro_batch.labels_N.to(parts.device, non_blocking=True)
    if parts.augment is not None:
        stream = RandomStream(key(parts.job.recipe.seed, request.step, _BATCH_AUGMENT, request.number))
        images_NCHW, targets = parts.augment(images_NCHW, targets, stream)
    with parts.engine.accumulating(last=request.last):
        with parts.precision.autocast():
            outputs_NK = parts.engine(images_NCHW)
            losses_N = parts.loss(outputs_NK, targets)
            if parts.distiller is not None:
                losses_N = parts.distiller.mixed(losses_N, outputs_NK, images_NCHW)
        if micro_batch.all_count:
            factors_N = _equal_factors(losses_N.shape[0], request.step_samples, losses_N.dtype, parts.device)
        else:
            factors_N = micro_batch.weights_N.to(losses_N, non_blocking=True) / request.step_samples
        if parts.distiller is not None:
            parts.distiller.collect(factors_N)
        parts.engine.backward(parts.precision, losses_N, factors_N)
    return losses_N.detach().dot(factors_N)


@lru_cache(maxsize=32)
def _equal_factors(samples: int, step_samples: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return what each sample's loss counts in the mean over the step, when all do; a run has few different sizes."""
    return torch.full((samples,), 1.0 / step_samples, dtype=dtype, device=device)


def _agree(parts: StepParts, own: _Sums, request: Request) -> tuple[float, int, bool, bool]:
    """One small sum over the ranks: loss, skipped samples, the wishes to stop and to save, batch-norm statistics."""
    stop, save = parts.stop_requested(), parts.save_due is not None and parts.save_due()
    if parts.engine.num_ranks == 1:
        parts.batch_norm.finish_alone(request.step_samples)
        skipped = len(own.skipped)
        loss = _total(own.losses).item()
        return loss * _factor(request.step_samples, skipped) if skipped else loss, skipped, stop, save
    head = torch.tensor([stop, save, len(own.skipped)], dtype=torch.float64, device=parts.device)
    sums = torch.cat([head, _total(own.losses).double().reshape(1), parts.batch_norm.sums(parts.device)])
    parts.engine.sum_over_ranks(sums)
    parts.batch_norm.finish(sums[4:], request.step_samples)
    stop_wishes, save_wishes, skipped, total_loss = sums[:4].tolist()
    loss = total_loss * _factor(request.step_samples, int(skipped))
    return loss, int(skipped), stop_wishes > 0, save_wishes > 0


def _total(losses: list[torch.Tensor]) -> torch.Tensor:
    """Return the sum; of several in float64."""
    return losses[0] if len(losses) == 1 else torch.stack(losses).double().sum()


def _divide_by_what_counts(parts: StepParts, step_samples: int, num_skipped: int) -> None:
    """Make the gradient the mean over the samples that count; it was divided by all of the step."""
    for parameter in parts.parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(_factor(step_samples, num_skipped))


def _factor(step_samples: int, num_skipped: int) -> float:
    """Return what makes a sum divided by all samples of a step a mean over those that count."""
    return step_samples / max(step_samples - num_skipped, 1)


def _finish_gradient(parts: StepParts, request: Request, num_skipped: int) -> float | None:
    """Unscale, divide, add penalties and clip; return the norm before clipping where it is known."""
    settings, recipe = parts.job.recipe.regularization, parts.job.recipe
    parts.precision.unscale(parts.optimizer)
    if num_skipped:
        _divide_by_what_counts(parts, request.step_samples, num_skipped)
    if settings.l1 or settings.l2:
        add_penalties(parts.decayed, settings.l1, settings.l2)
    if parts.add_ewc is not None:
        parts.add_ewc()
    measured = recipe.tracking.gradient_norm or recipe.stability.guards
    if not (settings.clips or measured):
        return None
    norm = clip(parts.parameters, settings, measured, parts.engine.sum_over_ranks if parts.engine.sharded else None)
    return None if norm is None else float(norm)


def _measure_noise(parts: StepParts, own: _Sums, request: Request, averages: NoiseAverages) -> None:
    """Compare the gradient of few samples with that of the step, before it is unscaled, divided or clipped."""
    small, samples = own.small_gradient, own.small_samples
    if parts.engine.num_ranks > 1:
        small, samples = parts.engine.take_local_squares(), own.samples
    # The gradients are sums over `samples`, divided by the samples of the step.
    values = torch.zeros(3, dtype=torch.float64, device=parts.device)
    if samples and small is not None:
        values[0] = small * (request.step_samples / samples) ** 2
        values[1:] = torch.tensor([1.0 / samples, 1.0])
    parts.engine.sum_over_ranks(values)
    big = squared_norm(parameter.grad for parameter in parts.parameters if parameter.grad is not None)
    small_sum, inverses, contributions, big_square = [*values.tolist(), float(big)]
    if contributions and inverses / contributions > 1.0 / request.step_samples:
        unscaled = parts.precision.scale**-2
        averages.add(
            unscaled * small_sum / contributions, inverses / contributions, unscaled * big_square, request.step_samples
        )
