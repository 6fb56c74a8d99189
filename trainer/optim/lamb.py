"""LAMB: Adam's update with a learning rate per layer. Owns the update rule, its moments and its step counters.

Only reads gradients; must not know which parameters count as biases (groups.py) or how the learning rate is scheduled.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from megabatch.configs.optimizers import Lamb as LambSettings
from megabatch.trainer.optim.groups import Group
from megabatch.trainer.optim.layerwise import LayerwiseOptimizer, Member, Norms, Ratios
from megabatch.trainer.optim.trust_ratio import host_trust_ratio, norm, norms, trust_ratio

_HAS_FUSED_ADAMW = hasattr(torch, "_fused_adamw_")


class Lamb(LayerwiseOptimizer):
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

    state_keys: ClassVar = ("step", "exp_avg", "exp_avg_sq")

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
    def start(self, state: dict[str, Tensor], parameter: Tensor) -> None:
        """Start with m = v = 0; the keys and the step on the host are those of torch.optim.AdamW."""
        state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
        state["exp_avg"] = torch.zeros_like(parameter)
        state["exp_avg_sq"] = torch.zeros_like(parameter)

    @override
    def plain(self, group: Group, members: list[Member], lengths: Norms = norms) -> Ratios:
        """Take one step of the rule above."""
        parameters: list[Tensor] = [member.parameter for member in members]
        updates = _adam_updates(group, members)
        torch._foreach_add_(updates, parameters, alpha=group["weight_decay"])
        if not group["adapt"]:
            torch._foreach_add_(parameters, updates, alpha=-group["lr"])
            return ()
        ratios = trust_ratio(lengths(parameters), lengths(updates))
        torch._foreach_mul_(updates, ratios.unbind())
        torch._foreach_add_(parameters, updates, alpha=-group["lr"])
        return ratios

    @override
    def can_fuse(self, group: Group, parameter: Tensor) -> bool:
        """Return whether torch's fused AdamW can take the step."""
        return _HAS_FUSED_ADAMW and parameter.dtype in (torch.float32, torch.float64)

    @override
    def fused(self, group: Group, members: list[Member]) -> Ratios:
        """Take the step of `plain`, with the norms on the host."""
        torch._foreach_add_([member.state[0] for member in members], 1)
        if not group["adapt"]:
            parameters: list[Tensor] = [member.parameter for member in members]
            _fused_adamw(parameters, members, group, rate=group["lr"], decay=group["weight_decay"])
            return ()
        return [self._fused_one(member, group) for member in members]

    def _fused_one(self, member: Member, group: Group) -> float:
        """Let AdamW move -weight_decay * w instead of w, at the learning rate 1: that makes -update of it."""
        parameter = member.parameter
        update = self.scratch_like(parameter, group)
        torch.mul(parameter, -group["weight_decay"], out=update)
        parameter_norm = norm(parameter)
        _fused_adamw([update], [member], group, rate=1.0, decay=0.0)
        ratio = host_trust_ratio(parameter_norm, norm(update))
        parameter.add_(update, alpha=group["lr"] * ratio)
        return ratio


def _adam_updates(group: Group, members: list[Member]) -> list[Tensor]:
    """Move the moments on; return m_hat / (sqrt(v_hat) + epsilon)."""
    beta1, beta2 = group["beta1"], group["beta2"]
    gradients = [member.gradient for member in members]
    steps, first_moments, second_moments = (list(each) for each in zip(*(m.state for m in members), strict=True))
    torch._foreach_add_(steps, 1)
    torch._foreach_mul_(first_moments, beta1)
    torch._foreach_add_(first_moments, gradients, alpha=1 - beta1)
    torch._foreach_mul_(second_moments, beta2)
    torch._foreach_addcmul_(second_moments, gradients, gradients, value=1 - beta2)
    taken = [step.item() if group["bias_correction"] else math.inf for step in steps]
    corrections1 = [1 - beta1**step for step in taken]
    # Both corrections go into the denominator: one temporary, and no pass over m of its own.
    denominators = torch._foreach_sqrt(second_moments)
    scales = [one / math.sqrt(1 - beta2**step) for one, step in zip(corrections1, taken, strict=True)]
    torch._foreach_mul_(denominators, scales)
    torch._foreach_add_(denominators, [group["epsilon"] * one for one in corrections1])
    return list(torch._foreach_div(first_moments, denominators))


def _fused_adamw(targets: list[Tensor], members: list[Member], group: Group, rate: float, decay: float) -> None:
    """Move the moments on and let torch's AdamW move `targets`, which have the parameters' layouts.

    The steps are counted already. After infinitely many there is no bias left to correct.
    """
    steps = [member.state[0] for member in members]
    torch._fused_adamw_(
        targets,
        [member.gradient for member in members],
        [member.state[1] for member in members],
        [member.state[2] for member in members],
        [],
        steps if group["bias_correction"] else [torch.full_like(step, math.inf) for step in steps],
        lr=rate,
        beta1=group["beta1"],
        beta2=group["beta2"],
        weight_decay=decay,
        eps=group["epsilon"],
        amsgrad=False,
        maximize=False,
    )


def lamb(groups: list[Group], settings: LambSettings, learning_rate: float) -> Lamb:
    """Build LAMB over groups that may carry `weight_decay` and `adapt` of their own."""
    return Lamb(groups, settings, learning_rate)
