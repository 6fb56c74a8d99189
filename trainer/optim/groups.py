"""Decides which parameters are decayed and adapted, and says so in words.

Reads the model and the optimizer's settings; must not know how an optimizer uses the groups it gets.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from megabatch.configs.optimizers import Lamb, Lars, OptimizerBase

Group = dict[str, Any]  # Any: a torch.optim group holds parameters, numbers and switches side by side

NORMALIZATIONS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


def decayed_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the trainable weights: no biases, and nothing that a normalization owns."""
    return [parameter for _, parameter in _split(model)[0]]


def parameter_groups(model: nn.Module, settings: OptimizerBase) -> list[Group]:
    """Split the trainable parameters: weights first, then biases and everything a normalization owns.

    The second group is neither decayed nor, under LARS and LAMB, adapted, unless `decay_bias_and_norm` and
    `adapt_bias_and_norm` ask for it (Goyal et al. 2017, section 5.1, for decay; the trust ratio of a bias is undefined
    at its usual start, 0). A parameter with at most one dimension counts as a bias; a layer norm over (C, H, W) is
    recognised by its owner. Parameters travel as (name, parameter), which torch.optim turns into `param_names`.
    """
    weights, biases_and_norms = _split(model)
    groups: list[Group] = [
        {"params": weights, "weight_decay": settings.weight_decay},
        {"params": biases_and_norms, "weight_decay": settings.weight_decay if settings.decay_bias_and_norm else 0.0},
    ]
    if isinstance(settings, Lars | Lamb):
        groups[0]["adapt"] = True
        groups[1]["adapt"] = settings.adapt_bias_and_norm
    return [group for group in groups if group["params"]]


def _split(model: nn.Module) -> tuple[list[tuple[str, nn.Parameter]], list[tuple[str, nn.Parameter]]]:
    owned_by_normalization = {
        parameter
        for module in model.modules()
        if isinstance(module, NORMALIZATIONS)
        for parameter in module.parameters(recurse=False)
    }
    weights: list[tuple[str, nn.Parameter]] = []
    biases_and_norms: list[tuple[str, nn.Parameter]] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            exempt = parameter.ndim <= 1 or parameter in owned_by_normalization
            (biases_and_norms if exempt else weights).append((name, parameter))
    return weights, biases_and_norms


def describe_groups(groups: list[Group]) -> list[str]:
    """Return one line per group: what happens to it, how many parameters and how many elements it has.

    Takes the groups of `parameter_groups` or an optimizer's `param_groups`:
    "adapted, decayed by 5e-05: 54 parameters, 25502912 elements".
    """
    return [_describe(group) for group in groups]


def _describe(group: Group) -> str:
    treatment = f"decayed by {group['weight_decay']:g}" if group["weight_decay"] else "not decayed"
    if "adapt" in group:
        treatment = f"{'adapted' if group['adapt'] else 'not adapted'}, {treatment}"
    parameters: list[Tensor] = [entry[1] if isinstance(entry, tuple) else entry for entry in group["params"]]
    elements = sum(parameter.numel() for parameter in parameters)
    return f"{treatment}: {len(parameters)} parameters, {elements} elements"
