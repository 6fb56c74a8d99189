"""LARS: momentum SGD with a learning rate per layer. Owns the update rule and its momentum buffers.

Only reads gradients; must not know which parameters count as biases (groups.py) or how the learning rate is scheduled.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from megabatch.configs.optimizers import Lars as LarsSettings
from megabatch.trainer.optim.groups import Group
from megabatch.trainer.optim.layerwise import LayerwiseOptimizer, Member, Norms, Ratios
from megabatch.trainer.optim.trust_ratio import host_trust_ratio, norm, norms, trust_ratio

_HAS_FUSED_SGD = hasattr(torch, "_fused_sgd_")


class Lars(LayerwiseOptimizer):
    """Layer-wise adaptive rate scaling: You, Gitman and Ginsburg 2017 (arXiv 1708.03888), algorithm 1.

    w is a parameter, g its gradient, v the momentum buffer (0 at the start), ratio the trust ratio:

        d     = g + weight_decay * w
        ratio = trust_coefficient * ||w|| / (||g|| + weight_decay * ||w|| + epsilon)      denominator `separate`
                trust_coefficient * ||w|| / (||d|| + epsilon)                             denominator `joint`
        v     = momentum * v + lr * ratio * d
        w     = w - v                       with nesterov: w - (momentum * v + lr * ratio * d)

    The ratio is 1 in groups with `adapt: False` (momentum SGD) and where a norm is 0 (see trust_ratio).
    Deviations from the paper: epsilon, nesterov and `joint`, which is the denominator of optax.lars.
    Differences from timm.optim.Lars: timm multiplies by lr after the momentum, so that the two agree only while lr is
    constant; with weight_decay 0 timm is plain SGD unless told `always_adapt`; where g is 0 timm decays at ratio 1.
    """

    state_keys: ClassVar = ("momentum_buffer",)

    def __init__(self, groups: list[Group], settings: LarsSettings, learning_rate: float) -> None:
        defaults = {
            "lr": learning_rate,
            "weight_decay": settings.weight_decay,
            "adapt": True,
            "momentum": settings.momentum,
            "nesterov": settings.nesterov,
            "trust_coefficient": settings.trust_coefficient,
            "epsilon": settings.epsilon,
            "denominator": settings.denominator,
        }
        super().__init__([dict(group) for group in groups], defaults)  # copies: torch writes into what it gets

    @override
    def start(self, state: dict[str, Tensor], parameter: Tensor) -> None:
        """Start with v = 0."""
        state["momentum_buffer"] = torch.zeros_like(parameter)

    @override
    def plain(self, group: Group, members: list[Member], lengths: Norms = norms) -> Ratios:
        """Take one step of the rule above."""
        parameters: list[Tensor] = [member.parameter for member in members]
        gradients = [member.gradient for member in members]
        buffers = [member.state[0] for member in members]
        increments = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        ratios = _ratios(parameters, gradients, increments, group, lengths) if group["adapt"] else None
        torch._foreach_mul_(increments, group["lr"] if ratios is None else (ratios * group["lr"]).unbind())
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, increments)
        if group["nesterov"]:
            torch._foreach_add_(increments, buffers, alpha=group["momentum"])
        torch._foreach_sub_(parameters, increments if group["nesterov"] else buffers)
        return () if ratios is None else ratios

    @override
    def can_fuse(self, group: Group, parameter: Tensor) -> bool:
        """Return whether torch's fused SGD can express the step; nesterov leaves it no place for lr * ratio.

        Not in float64: the kernel is told 1 - lr * ratio, which brings an error of 1e-16, not small beside a rate.
        """
        expressible = group["momentum"] > 0 and not group["nesterov"]
        return _HAS_FUSED_SGD and expressible and parameter.dtype == torch.float32

    @override
    def fused(self, group: Group, members: list[Member]) -> Ratios:
        """Take the step of `plain`, with the norms on the host."""
        if not group["adapt"]:
            _fused_sgd(members, group, group["lr"])
            return ()
        return [self._fused_one(member, group) for member in members]

    def _fused_one(self, member: Member, group: Group) -> float:
        ratio = self._host_ratio(member, group)
        _fused_sgd([member], group, group["lr"] * ratio)  # at once, while the norms have w and g in the cache
        return ratio

    def _host_ratio(self, member: Member, group: Group) -> float:
        parameter, gradient, decay = member.parameter, member.gradient, group["weight_decay"]
        parameter_norm = norm(parameter)
        if group["denominator"] == "joint":
            update = torch.add(gradient, parameter, alpha=decay, out=self.scratch_like(parameter, group))
            update_norm = norm(update)
        else:
            update_norm = norm(gradient) + decay * parameter_norm
        return host_trust_ratio(parameter_norm, update_norm, group["trust_coefficient"], group["epsilon"])


def _ratios(
    parameters: list[Tensor], gradients: list[Tensor], decayed: list[Tensor], group: Group, lengths: Norms
) -> Tensor:
    parameter_norms = lengths(parameters)
    if group["denominator"] == "joint":
        update_norms = lengths(decayed)
    else:
        update_norms = lengths(gradients) + group["weight_decay"] * parameter_norms
    return trust_ratio(parameter_norms, update_norms, group["trust_coefficient"], group["epsilon"])


def _fused_sgd(members: list[Member], group: Group, rate: float) -> None:
    """Take v = momentum * v + rate * (g + weight_decay * w), w = w - v: SGD with lr 1 and dampening 1 - rate."""
    torch._fused_sgd_(
        [member.parameter for member in members],
        [member.gradient for member in members],
        [member.state[0] for member in members],
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        lr=1.0,
        dampening=1.0 - rate,
        nesterov=False,
        maximize=False,
        is_first_step=False,
    )


def lars(groups: list[Group], settings: LarsSettings, learning_rate: float) -> Lars:
    """Build LARS over groups that may carry `weight_decay` and `adapt` of their own."""
    return Lars(groups, settings, learning_rate)
