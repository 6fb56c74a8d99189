"""LAMB: Adam's update with a learning rate per layer. Owns the update rule, its moments and its step counters.

Only reads gradients; must not know which parameters count as biases (groups.py) or how the learning rate is scheduled.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import override

from megabatch.configs.optimizers import Lamb as LambSettings
from megabatch.trainer.optim.groups import Group
from megabatch.trainer.optim.per_tensor import PerTensorOptimizer
from megabatch.trainer.optim.trust_ratio import norm, trust_ratio


class Lamb(PerTensorOptimizer):
    """Layer-wise adaptive moments: You et al. 2020 (arXiv 1904.00962), algorithm 2 with phi the identity.

    w is a parameter, g its gradient, m and v the moments (0 at the start), t the number of this step, from 1:

        m      = beta1 * m + (1 - beta1) * g
        v      = beta2 * v + (1 - beta2) * g**2
        update = (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + epsilon) + weight_decay * w
        w      = w - lr * (||w|| / ||update||) * update

    The ratio is 1 in groups with `adapt: False` (which makes it AdamW) and where a norm is 0 (see trust_ratio).
    Deviation from the paper: with `bias_correction: false` m and v are used as they are.
    Difference from timm.optim.Lamb: timm clips the global gradient norm to 1 unless told otherwise, and with
    weight_decay 0 does not adapt unless told `always_adapt`. optax.lamb is the same rule.
    """

    def __init__(self, groups: list[Group], settings: LambSettings, learning_rate: float) -> None:
        defaults = {
            "lr": learning_rate,
            "weight_decay": settings.weight_decay,
            "adapt": True,
            "beta1": settings.beta1,
            "beta2": settings.beta2,
            "epsilon": settings.epsilon,
            "bias_correction": settings.bias_correction,
        }
        super().__init__([dict(group) for group in groups], defaults)  # copies: torch writes into what it gets

    @override
    def update_tensor(self, parameter: Tensor, gradient: Tensor, group: Group) -> None:
        """Take one step of the rule above."""
        update = self._adam_update(parameter, gradient, group)
        if group["adapt"]:
            update.mul_(trust_ratio(norm(parameter), norm(update)))
        parameter.sub_(update, alpha=group["lr"])

    def _adam_update(self, parameter: Tensor, gradient: Tensor, group: Group) -> Tensor:
        beta1, beta2 = group["beta1"], group["beta2"]
        state = self.state[parameter]
        if not state:  # the keys and the step on the host are those of torch.optim.AdamW
            state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        step = state["step"].add_(1).item()
        first_moment = state["exp_avg"].mul_(beta1).add_(gradient, alpha=1 - beta1)
        second_moment = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        correction1, correction2 = (1 - beta1**step, 1 - beta2**step) if group["bias_correction"] else (1.0, 1.0)
        # Both corrections go into the denominator: one temporary, and no pass over m of its own.
        denominator = second_moment.sqrt().mul_(correction1 / math.sqrt(correction2))
        denominator.add_(group["epsilon"] * correction1)
        return torch.div(first_moment, denominator, out=denominator).add_(parameter, alpha=group["weight_decay"])


def lamb(groups: list[Group], settings: LambSettings, learning_rate: float) -> Lamb:
    """Build LAMB over groups that may carry `weight_decay` and `adapt` of their own."""
    return Lamb(groups, settings, learning_rate)
