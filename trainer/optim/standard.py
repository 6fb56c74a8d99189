"""The optimizers that torch already has, built from our settings. Owns no update rule.

torch chooses the implementation (a loop on the CPU, foreach on a GPU). Never `fused=True`: torch 2.15 on the CPU pairs
the elements of a channels-last gradient with the wrong ones of a contiguous parameter, without a word.
"""

from __future__ import annotations

import torch

from megabatch.configs.optimizers import AdamW as AdamWSettings
from megabatch.configs.optimizers import Sgd as SgdSettings
from megabatch.trainer.optim.groups import Group


def sgd(groups: list[Group], settings: SgdSettings, learning_rate: float) -> torch.optim.SGD:
    """Build momentum SGD: d = g + weight_decay * w; v = momentum * v + d; w = w - lr * v.

    With nesterov, w = w - lr * (d + momentum * v). Sutskever et al. 2013, section 2, except that lr is outside the
    momentum, as in Goyal et al. 2017, equation 9.
    """
    return torch.optim.SGD(
        _unadapted(groups),
        lr=learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )


def adamw(groups: list[Group], settings: AdamWSettings, learning_rate: float) -> torch.optim.AdamW:
    """Build Adam with decoupled decay: w = w - lr * (m_hat / (sqrt(v_hat) + epsilon) + weight_decay * w).

    Loshchilov and Hutter 2019, algorithm 2, with the decay multiplied by the whole learning rate, as torch does.
    """
    return torch.optim.AdamW(
        _unadapted(groups),
        lr=learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
    )


def _unadapted(groups: list[Group]) -> list[Group]:
    """Return copies, since torch writes into what it gets, without the switch that only LARS and LAMB know."""
    return [{key: value for key, value in group.items() if key != "adapt"} for group in groups]
