"""Whose statistics the batch norms of a network normalize with in training: `model.batch_norm`.

Nothing is replaced: the modules keep their classes and the names of their tensors, so checkpoints of all modes fit each
other. Only what their `forward` does in training is another.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from megabatch.configs.norms import FrozenNorm, GhostNorm, PreciseStatistics, SynchronizedNorm
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.norms.synchronized import synchronize

# By name, so that timm is not imported for it: batch norm with dropout and an activation after it.
_KNOWN = frozenset({"BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "BatchNormAct2d"})


def set_batch_norm(
    network: nn.Module, settings: GhostNorm | SynchronizedNorm | FrozenNorm, statistics_follow: bool = False
) -> str:
    """Change the batch norms in place; return what was done in words. Raises TrainingError for what cannot be done.

    `statistics_follow`: trained ones come later, with the checkpoint that a run goes on from.
    """
    modules = _batch_norms(network, "batch_norm")
    for name, module in modules.items():
        if type(module).__name__ not in _KNOWN:
            raise TrainingError(
                f"model.batch_norm: {name} is a {type(module).__name__}, which does more than batch norm. Leave "
                "batch_norm out, or ask the model itself for another norm (model.options)"
            )
    found = f"batch norm: {len(modules)} layers"
    if isinstance(settings, GhostNorm):
        for module in modules.values():
            module.forward = partial(_ghost_forward, module, module.forward, settings.samples)  # type: ignore[method-assign]
        return f"{found} normalize every {settings.samples} samples of a micro-batch by themselves"
    if isinstance(settings, SynchronizedNorm):
        synchronize(list(modules.values()))
        return f"{found} normalize a micro-batch of each rank together: the result depends on the number of ranks"
    if not statistics_follow:
        _refuse_untrained(modules)
    for module in modules.values():
        _freeze(module, settings.affine == "frozen")
    return f"{found} keep their statistics" + (", scale and shift" if settings.affine == "frozen" else "")


def smallest_group(settings: GhostNorm | SynchronizedNorm | FrozenNorm | None, samples: int) -> int:
    """Return the fewest of a micro-batch's samples that are normalized together.

    >>> smallest_group(GhostNorm(samples=16), 33), smallest_group(GhostNorm(samples=16), 32), smallest_group(None, 33)
    (1, 16, 33)
    """
    if not isinstance(settings, GhostNorm) or samples <= settings.samples:
        return samples
    return samples % settings.samples or settings.samples


def other_ranks(settings: GhostNorm | SynchronizedNorm | FrozenNorm | None, before: int, now: int) -> str | None:
    """Return what to tell where a training goes on with another number of ranks and that changes its batch norm."""
    if not isinstance(settings, SynchronizedNorm) or before == now:
        return None
    return (
        f"warning: batch norm is synchronized: from here on {now} micro-batches are normalized together; before, "
        f"{before} were. The result is not that of a run with one number of ranks"
    )


def announce_precise(network: nn.Module, settings: PreciseStatistics) -> str:
    """Return in words what `model.precise_statistics` will do. Raises TrainingError if there is no batch norm."""
    count = len(_batch_norms(network, "precise_statistics"))
    return (
        f"batch norm: the statistics of {count} layers are taken anew before an evaluation, over at least "
        f"{settings.samples:,} samples"
    )


def _batch_norms(network: nn.Module, key: str) -> dict[str, _BatchNorm]:
    """Return the batch norms by name. Raises TrainingError unless there are some, each with running statistics."""
    found = {name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)}
    if not found:
        raise TrainingError(f"model.{key}: the network has no batch norm. Leave it out, or choose another model")
    for name, module in found.items():
        if not module.track_running_stats:
            raise TrainingError(
                f"model.{key}: {name} keeps no running statistics (track_running_stats=False), so an evaluation "
                f"depends on its batches. Leave {key} out, or change the model"
            )
    return found


def _ghost_forward(module: _BatchNorm, whole: Any, samples: int, images: torch.Tensor) -> torch.Tensor:
    """Pass `images`, shape (N, C, ...), in groups of `samples`; the buffers end with the mean over the samples.

    `whole` is the module's own forward. A momentum of n / (samples so far) for a group of n makes the mean of it: the
    first group begins it, as the momentum of 1 does that StepBatchNorm sets.
    """
    if not module.training or len(images) <= samples:
        return whole(images)  # type: ignore[no-any-return]
    momentum, seen = module.momentum, 0
    outputs = []
    for group in torch.split(images, samples):
        seen += len(group)
        module.momentum = len(group) / seen
        outputs.append(whole(group))
    module.momentum = momentum
    return torch.cat(outputs)


def _refuse_untrained(modules: dict[str, _BatchNorm]) -> None:
    """Raise TrainingError if all statistics are those of a new network: frozen, they would not normalize at all."""
    for module in modules.values():
        assert module.running_mean is not None
        assert module.running_var is not None
        if module.running_mean.any() or (module.running_var != 1).any():
            return
    raise TrainingError(
        "model.batch_norm: frozen keeps the running statistics, but those of this network are new (mean 0, variance "
        "1), so nothing would be normalized. Load trained weights (model.pretrained), or leave frozen out"
    )


def _freeze(module: _BatchNorm, affine: bool) -> None:
    """Make a batch norm compute as in evaluation for good: train() passes it by, and nothing tracks its statistics."""
    module.eval()
    module.train = partial(_stay, module)  # type: ignore[method-assign]
    module.track_running_stats = False
    if affine:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)


def _stay(module: _BatchNorm, mode: bool = True) -> _BatchNorm:
    return module
