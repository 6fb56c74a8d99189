"""Batch norm over a micro-batch of each rank: what one process with all of those samples would compute.

torch.nn.SyncBatchNorm works on GPUs only, and has no way for a rank that takes part without samples of its own. Here
the ranks exchange mean, variance and number of samples of each layer (combined as in Chan et al. 1979, equation 2.1),
and two sums per channel in the backward pass (Ioffe and Szegedy 2015, section 3, with sums over all ranks).

Shapes: N samples, C channels, and any number of dimensions after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import override


@dataclass
class Round:
    """Whether this rank's samples count in the round of micro-batches that the ranks do together."""

    counts: bool = True


def synchronize(modules: Sequence[_BatchNorm]) -> None:
    """Let batch norms, in training and among several ranks, normalize over the ranks."""
    shared = Round()
    # Here, as it imports the compiler: 1.5 s that others need not wait.
    forward = torch.compiler.disable(_forward)  # type: ignore[no-untyped-call]
    for module in modules:
        module.synchronized_round = shared  # type: ignore[assignment]
        module.forward = partial(forward, module, module.forward, shared)  # type: ignore[method-assign]


def round_of(network: nn.Module) -> Round:
    """Return what the synchronized batch norms of a network look at; where there are none, nobody does."""
    found = (getattr(module, "synchronized_round", None) for module in network.modules())
    return next((one for one in found if one is not None), Round())


def _forward(module: _BatchNorm, alone: Any, shared: Round, x_NC: torch.Tensor) -> torch.Tensor:
    if not module.training or not dist.is_initialized() or dist.get_world_size() == 1:
        return alone(x_NC)  # type: ignore[no-any-return]
    mean_C, var_C, values = _statistics(x_NC, shared.counts)
    _keep(module, mean_C, var_C * (values / (values - 1).clamp(min=1)).to(var_C.dtype))
    out_NC: torch.Tensor = _Normalize.apply(
        x_NC, module.weight, module.bias, mean_C, var_C, module.eps, values, shared.counts
    )
    if hasattr(module, "act"):  # timm's BatchNormAct2d
        return module.act(module.drop(out_NC))  # type: ignore[no-any-return, operator]
    return out_NC


@torch.no_grad()
def _statistics(x_NC: torch.Tensor, counts: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return mean and variance per channel over all ranks, and how many values of a channel they are of."""
    var_C, mean_C = torch.var_mean(_full(x_NC), dim=_all_but_channels(x_NC), correction=0)
    own_values = mean_C.new_full((1,), counts * x_NC.numel() / x_NC.shape[1])
    own = torch.cat([mean_C, var_C, own_values]).double()
    ranks = own.new_empty(dist.get_world_size(), len(own))
    dist.all_gather(list(ranks.unbind()), own)
    means_RC, vars_RC = ranks[:, : len(mean_C)], ranks[:, len(mean_C) : -1]
    values = ranks[:, -1].sum()
    shares_R = (ranks[:, -1] / values)[:, None]
    total_C = (shares_R * means_RC).sum(dim=0)
    total_var_C = (shares_R * (vars_RC + (means_RC - total_C).square())).sum(dim=0)
    return total_C.to(mean_C.dtype), total_var_C.to(mean_C.dtype), values


@torch.no_grad()
def _keep(module: _BatchNorm, mean_C: torch.Tensor, var_C: torch.Tensor) -> None:
    """Leave the statistics where torch leaves them; with the momentum of 1 that StepBatchNorm sets, as they are."""
    momentum = 1.0 if module.momentum is None else module.momentum
    for buffer, value in ((module.running_mean, mean_C), (module.running_var, var_C)):
        assert buffer is not None
        buffer.lerp_(value.to(buffer.dtype), momentum)


class _Normalize(torch.autograd.Function):
    """weight * (x - mean) / sqrt(var + epsilon) + bias, where mean and variance depend on the x of all ranks."""

    @staticmethod
    @override
    def forward(
        ctx: Any,  # Any: what autograd gives
        x_NC: torch.Tensor,
        weight_C: torch.Tensor | None,
        bias_C: torch.Tensor | None,
        mean_C: torch.Tensor,
        var_C: torch.Tensor,
        epsilon: float,
        values: torch.Tensor,
        counts: bool,
    ) -> torch.Tensor:
        ctx.save_for_backward(x_NC, weight_C, mean_C, (var_C + epsilon).rsqrt(), values)
        ctx.counts = counts
        return functional.batch_norm(x_NC, mean_C, var_C, weight_C, bias_C, False, 0.0, epsilon)

    @staticmethod
    @torch.autograd.function.once_differentiable
    @override
    def backward(ctx: Any, grad_NC: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_NC, weight_C, mean_C, scale_C, values = ctx.saved_tensors
        shape = [1, -1] + [1] * (x_NC.dim() - 2)
        dims = _all_but_channels(x_NC)
        grad, standard = _full(grad_NC), (_full(x_NC) - mean_C.view(shape)) * scale_C.view(shape)
        bias_grad_C, weight_grad_C = grad.sum(dim=dims), (grad * standard).sum(dim=dims)
        sums = torch.stack([bias_grad_C, weight_grad_C]).double()
        dist.all_reduce(sums)  # a rank whose samples do not count has sums of 0, and takes part
        factor_C = scale_C if weight_C is None else scale_C * weight_C
        if ctx.counts:
            mean_grad_C, mean_product_C = (sums / values).to(grad.dtype)
            grad = grad - mean_grad_C.view(shape) - standard * mean_product_C.view(shape)
        x_grad = (grad * factor_C.view(shape)).to(x_NC.dtype)
        affine = (weight_grad_C, bias_grad_C) if weight_C is not None else (None, None)
        return x_grad, *affine, None, None, None, None, None


def _full(tensor: torch.Tensor) -> torch.Tensor:
    """Return it in float32 at least."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _all_but_channels(tensor: torch.Tensor) -> list[int]:
    return [dim for dim in range(tensor.dim()) if dim != 1]
