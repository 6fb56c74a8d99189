"""torch's own optimizers, built from a recipe's settings."""

from __future__ import annotations

from typing import Any

import torch
from megabatch.configs import optimizers


def sgd(groups: list[dict[str, Any]], settings: optimizers.Sgd, learning_rate: float) -> torch.optim.Optimizer:
    """Return torch.optim.SGD: `v = momentum * v + g + wd * w; w -= lr * v`, the learning rate outside the momentum."""
    return torch.optim.SGD(groups, lr=learning_rate, momentum=settings.momentum, nesterov=settings.nesterov)


def adamw(groups: list[dict[str, Any]], settings: optimizers.AdamW, learning_rate: float) -> torch.optim.Optimizer:
    """Return torch.optim.AdamW; weight decay is multiplied with the learning rate."""
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=settings.epsilon, weight_decay=0.0)
