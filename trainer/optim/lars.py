"""LARS: momentum SGD with a learning rate per layer. Owns the update rule and its momentum buffers.

Only reads gradients; must not know which parameters count as biases (groups.py) or how the learning rate is scheduled.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from megabatch.configs.optimizers import Lars as LarsSettings
from megabatch.trainer.optim.groups import Group
from megabatch.trainer.optim.per_tensor import PerTensorOptimizer
from megabatch.trainer.optim.trust_ratio import norm, trust_ratio


class Lars(PerTensorOptimizer):
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
    def update_tensor(self, parameter: Tensor, gradient: Tensor, group: Group) -> None:
        """Take one step of the rule above."""
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"]
        increment = torch.add(gradient, parameter, alpha=group["weight_decay"])  # the only temporary of this size
        if group["adapt"]:
            increment.mul_(_ratio(parameter, gradient, increment, group) * group["lr"])
        else:
            increment.mul_(group["lr"])
        torch.add(increment, buffer, alpha=group["momentum"], out=buffer)
        if group["nesterov"]:
            parameter.sub_(increment.add_(buffer, alpha=group["momentum"]))
        else:
            parameter.sub_(buffer)


def _ratio(parameter: Tensor, gradient: Tensor, decayed_gradient: Tensor, group: Group) -> Tensor:
    parameter_norm = norm(parameter)
    if group["denominator"] == "joint":
        update_norm = norm(decayed_gradient)
    else:
        update_norm = norm(gradient) + group["weight_decay"] * parameter_norm
    return trust_ratio(parameter_norm, update_norm, group["trust_coefficient"], group["epsilon"])


def lars(groups: list[Group], settings: LarsSettings, learning_rate: float) -> Lars:
    """Build LARS over groups that may carry `weight_decay` and `adapt` of their own."""
    return Lars(groups, settings, learning_rate)
