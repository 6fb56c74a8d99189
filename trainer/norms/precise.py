"""Running statistics taken anew from training images, with the weights as they are ("precise" batch norm).

The running mean of a training lags behind the weights, most of all with large batches, where steps are few (Wu and
Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3). Here the population is measured: over micro-batches B, each
normalized as in training, mean = E[mean_B] and var = E[mean_B^2 + var_B] - mean^2.

Training itself reads no running statistics, so it goes on as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from megabatch.trainer.build import Parts


def tracked_batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms whose running statistics follow the training: not those that are frozen."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def refresh_statistics(parts: Parts) -> None:
    """Do what `model.precise_statistics` asks for, to the weights that an evaluation looks at: averaged ones if any.

    Their statistics are those that are saved with them. Where there is an average, the network's own stay as they are.
    """
    settings, average = parts.job.recipe.model.precise_statistics, parts.step_parts.average
    if settings is None:
        return
    with parts.step_parts.engine.forward_only(), average.in_network() if average is not None else nullcontext():
        recompute_statistics(parts, settings.samples)


@torch.no_grad()
def recompute_statistics(parts: Parts, samples: int) -> None:
    """Set the running statistics to those of the first steps of training that have at least `samples` samples.

    A function of the weights and the recipe: the same on every rank, and for any number of ranks.
    """
    work, network = parts.step_parts, parts.step_parts.engine.network
    modules = tracked_batch_norms(network)
    moments = _Moments(modules, work.device)
    counters = [module.num_batches_tracked.clone() for module in modules if module.num_batches_tracked is not None]
    network.train()
    try:
        for micro_batch in parts.micro_batches_from(0):
            request = micro_batch.request
            moments.samples = len(request.sample_ids)
            work.batch_norm.expect(moments.samples)
            work.seed_network(request.step, request.number)
            with work.precision.autocast():
                network(work.normalize(micro_batch.images_NHWC))
            if request.last and parts.steps.samples_seen(request.step + 1) >= samples:
                break
    finally:
        moments.remove()
    work.engine.sum_over_ranks(moments.sums)
    moments.write()
    for module, counter in zip(modules, counters, strict=True):
        assert module.num_batches_tracked is not None
        module.num_batches_tracked.copy_(counter)


class _Moments:
    """Sums over samples, for each batch norm: their number, and of its input the mean and the mean square per channel.

    One flat float64 tensor, so that the ranks add up all of it at once. `samples` is how many the micro-batch about to
    pass counts for; a filler has 0.
    """

    def __init__(self, modules: Sequence[_BatchNorm], device: torch.device):
        self.samples = 0
        self._modules = modules
        sizes = [1 + 2 * module.num_features for module in modules]
        self.sums = torch.zeros(sum(sizes), dtype=torch.float64, device=device)
        self._views = torch.split(self.sums, sizes)
        self._hooks = [m.register_forward_pre_hook(partial(self._add, v)) for m, v in self._pairs()]

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def write(self) -> None:
        """Set the running statistics; a module through which nothing passed keeps what it has."""
        for module, view in self._pairs():
            assert module.running_mean is not None
            assert module.running_var is not None
            samples, sums = view[0], view[1:]
            if samples > 0:
                mean_C, square_C = (sums / samples).chunk(2)
                module.running_mean.copy_(mean_C)
                module.running_var.copy_(square_C - mean_C.square())

    def _pairs(self) -> list[tuple[_BatchNorm, torch.Tensor]]:
        return list(zip(self._modules, self._views, strict=True))

    def _add(self, view: torch.Tensor, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        (x_NC,) = inputs
        x_NC = x_NC if x_NC.dtype == torch.float64 else x_NC.float()
        var_C, mean_C = torch.var_mean(x_NC, dim=[dim for dim in range(x_NC.dim()) if dim != 1], correction=0)
        mean_C, var_C = mean_C.double(), var_C.double()
        view[0] += self.samples
        view[1:].add_(torch.cat([mean_C, mean_C.square() + var_C]), alpha=self.samples)
