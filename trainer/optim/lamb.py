"""LAMB: Adam whose update is scaled layer by layer with the trust ratio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megabatch.configs import optimizers
from megabatch.trainer.optim.trust_ratio import trust_ratio
from typing_extensions import override


class Lamb(torch.optim.Optimizer):
    """You et al. 2020 (arXiv 1904.00962), algorithm 2 with phi the identity.

        m = beta1 * m + (1 - beta1) * g          m_hat = m / (1 - beta1 ** t)
        v = beta2 * v + (1 - beta2) * g * g      v_hat = v / (1 - beta2 ** t)
        u = m_hat / (sqrt(v_hat) + epsilon) + wd * w
        w = w - lr * ||w|| / ||u|| * u

    timm clips the gradient to norm 1 first unless told not to; here clipping is the recipe's own line. Groups with
    `adapt` False take the update as it is, which makes them AdamW.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-6,
        bias_correction: bool = True,
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "epsilon": epsilon,
            "bias_correction": bias_correction,
            "weight_decay": 0.0,
            "adapt": True,
        }
        super().__init__(groups, defaults)

    @torch.no_grad()
    @override
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)  # on the CPU, as in torch.optim: read without waiting
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        steps = float(state["step"])
        correction1 = 1 - beta1**steps if group["bias_correction"] else 1.0
        correction2 = 1 - beta2**steps if group["bias_correction"] else 1.0
        update = square.sqrt().div_(correction2**0.5).add_(group["epsilon"])
        torch.div(mean, update, out=update)
        update.div_(correction1).add_(parameter, alpha=group["weight_decay"])
        if group["adapt"]:
            update.mul_(trust_ratio(torch.linalg.vector_norm(parameter), torch.linalg.vector_norm(update)))
        parameter.sub_(update, alpha=group["lr"])


def lamb(groups: list[dict[str, Any]], settings: optimizers.Lamb, learning_rate: float) -> Lamb:
    """Return LAMB as a recipe asks for it."""
    betas = (settings.beta1, settings.beta2)
    return Lamb(groups, learning_rate, betas, settings.epsilon, settings.bias_correction)
