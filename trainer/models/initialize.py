"""Draws the weights of all convolutions and linear layers anew; biases begin at 0, norms are left as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import init

from megabatch.configs.initialization import (
    HeNormal,
    HeUniform,
    Initialization,
    NormalWeights,
    Orthogonal,
    TruncatedNormal,
    UniformWeights,
    XavierNormal,
    XavierUniform,
)
from megabatch.configs.model import Activation, LeakyRelu
from megabatch.data.hashing import key

_INITIALIZATION = 60  # what a key is for
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def initialize_weights(network: nn.Module, settings: Initialization, activation: Activation | None, seed: int) -> str:
    """Draw the weights; the gain is that of `activation`, of ReLU where the recipe names none."""
    torch.manual_seed(key(seed, _INITIALIZATION))
    layers = [module for module in network.modules() if isinstance(module, _LAYERS)]
    gain = gain_of(activation)
    with torch.no_grad():
        for layer in layers:
            _draw(layer.weight, settings, gain)
            if layer.bias is not None:
                layer.bias.zero_()
    return f"initialization: {settings.name} for the weights of {len(layers)} layers, gain {gain:.4g}"


def gain_of(activation: Activation | None) -> float:
    """Return by how much the weights make up for an activation: torch's table; for GELU and SiLU as for ReLU."""
    name = activation.name if activation is not None else "relu"
    if isinstance(activation, LeakyRelu):
        return init.calculate_gain("leaky_relu", activation.slope)
    return init.calculate_gain("relu" if name in ("gelu", "silu") else name)  # type: ignore[arg-type]


def _draw(weight: Tensor, settings: Initialization, gain: float) -> None:
    if isinstance(settings, UniformWeights):
        init.uniform_(weight, -settings.limit, settings.limit)
    elif isinstance(settings, NormalWeights):
        init.normal_(weight, std=settings.std)
    elif isinstance(settings, TruncatedNormal):
        init.trunc_normal_(weight, std=settings.std, a=-2 * settings.std, b=2 * settings.std)
    elif isinstance(settings, XavierUniform):
        init.xavier_uniform_(weight, gain)
    elif isinstance(settings, XavierNormal):
        init.xavier_normal_(weight, gain)
    elif isinstance(settings, HeUniform | HeNormal):
        fan = init._calculate_correct_fan(weight, settings.fan)
        std = gain / fan**0.5
        if isinstance(settings, HeNormal):
            init.normal_(weight, std=std)
        else:
            init.uniform_(weight, -(3**0.5) * std, 3**0.5 * std)
    elif isinstance(settings, Orthogonal):
        init.orthogonal_(weight, gain)
