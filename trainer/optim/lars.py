"""LARS: momentum SGD whose learning rate is scaled layer by layer with the trust ratio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from megabatch.configs import optimizers
from megabatch.trainer.optim.trust_ratio import trust_ratio
from typing_extensions import override


class Lars(torch.optim.Optimizer):
    """You, Gitman and Ginsburg 2017 (arXiv 1708.03888), algorithm 1.

        d = g + wd * w
        ratio = trust_coefficient * ||w|| / (||g|| + wd * ||w||)     denominator "separate", the paper's
        ratio = trust_coefficient * ||w|| / ||g + wd * w||           denominator "joint", optax's
        v = momentum * v + lr * ratio * d
        w = w - v                                                    with nesterov: w - (momentum * v + lr * ratio * d)

    The learning rate is inside the momentum, as in the paper and optax: a step taken at a high rate keeps its weight
    while the rate falls. timm multiplies outside, writes into the gradient, and without weight decay is plain SGD;
    this is none of that. Groups with `adapt` False have ratio 1.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        nesterov: bool = False,
        trust_coefficient: float = 0.001,
        epsilon: float = 0.0,
        denominator: Literal["separate", "joint"] = "separate",
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "trust_coefficient": trust_coefficient,
            "epsilon": epsilon,
            "denominator": denominator,
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
        decayed = gradient.add(parameter, alpha=group["weight_decay"])
        if group["adapt"]:
            decayed.mul_(_ratio(parameter, gradient, decayed, group))
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        velocity = state["momentum_buffer"]
        velocity.mul_(group["momentum"]).add_(decayed, alpha=group["lr"])
        if group["nesterov"]:
            parameter.sub_(velocity, alpha=group["momentum"]).sub_(decayed, alpha=group["lr"])
        else:
            parameter.sub_(velocity)


def _ratio(
    parameter: torch.Tensor, gradient: torch.Tensor, decayed: torch.Tensor, group: dict[str, Any]
) -> torch.Tensor:
    parameter_norm = torch.linalg.vector_norm(parameter)
    if group["denominator"] == "joint":
        denominator = torch.linalg.vector_norm(decayed)
    else:
        denominator = torch.linalg.vector_norm(gradient) + group["weight_decay"] * parameter_norm
    return trust_ratio(parameter_norm, denominator, group["trust_coefficient"], group["epsilon"])


def lars(groups: list[dict[str, Any]], settings: optimizers.Lars, learning_rate: float) -> Lars:
    """Return LARS as a recipe asks for it."""
    return Lars(
        groups, learning_rate, settings.momentum, settings.nesterov, settings.trust_coefficient,
        settings.epsilon, settings.denominator,
    )  # fmt: skip
