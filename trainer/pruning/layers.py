"""Which layers of a network lose weights: convolutions and linear layers, but for those that the recipe keeps."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.conv import _ConvNd

from megabatch.configs.errors import nearest
from megabatch.trainer.errors import TrainingError


def layers_with_weights(network: nn.Module) -> dict[str, nn.Module]:
    """Return the convolutions and linear layers by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, _ConvNd | nn.Linear)}


def kept_layers(network: nn.Module, keep: Sequence[str], key: str = "pruning.keep") -> set[str]:
    """Return the names of the layers that the patterns fit. Raises TrainingError for a pattern that fits none."""
    names = list(layers_with_weights(network))
    kept: set[str] = set()
    for pattern in keep:
        matching = {name for name in names if fnmatchcase(name, pattern)}
        if not matching:
            raise TrainingError(f"{key}: {pattern!r} fits no convolution or linear layer. {nearest(pattern, names)}")
        kept |= matching
    return kept


def pruned_weights(network: nn.Module, keep: Sequence[str]) -> dict[str, nn.Parameter]:
    """Return the weights to prune by name. Raises TrainingError if none is left to prune."""
    kept = kept_layers(network, keep)
    weights: dict[str, nn.Parameter] = {}
    for name, layer in layers_with_weights(network).items():
        weight = layer.weight
        if name not in kept and isinstance(weight, nn.Parameter) and weight.requires_grad:
            weights[f"{name}.weight" if name else "weight"] = weight
    if not weights:
        raise TrainingError(
            "pruning: every convolution and linear layer is kept or frozen, so there is nothing to remove: name fewer "
            "in pruning.keep, or write pruning: null"
        )
    return weights
