"""The optimizers that torch already has, built from our settings. Owns no update rule.

On CUDA `fused=True`, where torch has it: few launches for all parameters, and torch checks that gradients lie in memory
as their parameters do. On the CPU torch chooses (a loop). Never `fused=True` there: torch 2.15 pairs the elements of a
channels-last gradient with the wrong ones of a contiguous parameter, without a word.
"""

from __future__ import annotations

from typing import Any

import torch

from megabatch.configs.optimizers import Adagrad as AdagradSettings
from megabatch.configs.optimizers import Adam as AdamSettings
from megabatch.configs.optimizers import AdamW as AdamWSettings
from megabatch.configs.optimizers import RmsProp as RmsPropSettings
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
        **_fused(groups),
    )


def adagrad(groups: list[Group], settings: AdagradSettings, learning_rate: float) -> torch.optim.Adagrad:
    """Build Adagrad: d = g + weight_decay * w; s = s + d**2; w = w - lr * d / (sqrt(s) + epsilon).

    Duchi, Hazan and Singer 2011, figure 1, on the diagonal; s starts at `initial_accumulator`.
    """
    return torch.optim.Adagrad(
        _unadapted(groups),
        lr=learning_rate,
        initial_accumulator_value=settings.initial_accumulator,
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
    )


def rmsprop(groups: list[Group], settings: RmsPropSettings, learning_rate: float) -> torch.optim.RMSprop:
    """Build RMSProp: d = g + weight_decay * w; s = a * s + (1 - a) * d**2; w = w - lr * d / (sqrt(s) + epsilon).

    With momentum, b = momentum * b + d / (sqrt(s) + epsilon) and w = w - lr * b. `centered` takes s - mean(d)**2 for s
    (Graves 2013, equations 38 to 45).
    """
    return torch.optim.RMSprop(
        _unadapted(groups),
        lr=learning_rate,
        alpha=settings.smoothing,
        momentum=settings.momentum,
        centered=settings.centered,
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
    )


def adam(groups: list[Group], settings: AdamSettings, learning_rate: float) -> torch.optim.Adam:
    """Build Adam: the decay is added to the gradient, w = w - lr * m_hat / (sqrt(v_hat) + epsilon).

    Kingma and Ba 2015, algorithm 1. With amsgrad, v_hat is the largest there was (Reddi et al. 2018, algorithm 2).
    """
    return torch.optim.Adam(
        _unadapted(groups),
        lr=learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        amsgrad=settings.amsgrad,
        **_fused(groups),
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
        **_fused(groups),
    )


def _unadapted(groups: list[Group]) -> list[Group]:
    """Return copies, since torch writes into what it gets, without the switch that only LARS and LAMB know."""
    return [{key: value for key, value in group.items() if key != "adapt"} for group in groups]


def _fused(groups: list[Group]) -> dict[str, Any]:  # Any: keyword arguments that mypy cannot tell apart
    """Return the argument that asks for one launch over all parameters, if they are on CUDA."""
    on_cuda = all(parameter.device.type == "cuda" for group in groups for _, parameter in group["params"])
    return {"fused": True} if on_cuda else {}
