"""The two groups that every optimizer gets: weights, and the biases and norm parameters that are treated apart."""

from __future__ import annotations

from typing import Any

from megabatch.configs.optimizers import OptimizerBase
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def parameter_groups(network: nn.Module, settings: OptimizerBase) -> list[dict[str, Any]]:
    """Return groups with `params` as (name, parameter) pairs, `weight_decay` and `adapt`; frozen parameters in none.

    Biases and the scales of norms are a few numbers each: decaying them costs accuracy (Goyal et al. 2017, section
    5.3), and the trust ratio of LARS and LAMB is meaningless for them (You et al. 2017). `adapt` says whether the
    layer-wise optimizers scale the update; the others ignore it.
    """
    apart = _bias_and_norm_names(network)
    trained = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    weights = [(name, parameter) for name, parameter in trained if name not in apart]
    others = [(name, parameter) for name, parameter in trained if name in apart]
    decay_others = settings.weight_decay if settings.decay_bias_and_norm else 0.0
    groups = [
        {"params": weights, "weight_decay": settings.weight_decay, "adapt": True},
        {"params": others, "weight_decay": decay_others, "adapt": getattr(settings, "adapt_bias_and_norm", False)},
    ]
    return [group for group in groups if group["params"]]


def _bias_and_norm_names(network: nn.Module) -> set[str]:
    names = {name for name, parameter in network.named_parameters() if parameter.ndim <= 1}
    for prefix, module in network.named_modules():
        if isinstance(module, _NORMS):
            names |= {f"{prefix}.{name}" if prefix else name for name, _ in module.named_parameters(recurse=False)}
    return names


def describe_groups(groups: list[dict[str, Any]]) -> list[str]:
    """Return one line a group: how many parameters, and how they are treated."""
    lines = []
    for group in groups:
        tensors = [parameter for _, parameter in group["params"]]
        count = sum(parameter.numel() for parameter in tensors)
        adapted = "adapted" if group["adapt"] else "not adapted"
        lines.append(f"{len(tensors)} tensors, {count:,} numbers: weight decay {group['weight_decay']:g}, {adapted}")
    return lines
