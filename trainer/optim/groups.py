"""Decides which parameters are trained, decayed and adapted, and at which share of the learning rate; says so in words.

Reads the model and the optimizer's settings; must not know how an optimizer uses the groups it gets.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import Tensor, nn

from megabatch.configs.optimizers import Lamb, Lars, OptimizerBase
from megabatch.configs.parameter_groups import GroupRule
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.optim.layers import layer_factors

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


class _Treatment(NamedTuple):
    """What parameters of one group have in common."""

    exempt: bool
    factor: float
    weight_decay: float
    frozen_until: float | str | None = None


def freeze(network: nn.Module, settings: OptimizerBase) -> None:
    """Switch off the gradients of what `settings.groups` freezes; before an engine looks at the network.

    Raises TrainingError for a pattern that no parameter fits, and if nothing is left to train.
    """
    names = [name for name, _ in network.named_parameters()]
    for rule in settings.groups:
        if not any(fnmatchcase(name, rule.match) for name in names):
            raise TrainingError(_fits_nothing(rule.match, names))
    for name, parameter in network.named_parameters():
        first = rule_of(name, settings)
        if first is not None and first.frozen:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise TrainingError("optimizer.groups freezes every parameter: nothing is left to train")
    if all(
        _frozen_at_first(name, settings) for name, parameter in network.named_parameters() if parameter.requires_grad
    ):
        raise TrainingError("optimizer.groups freezes every parameter at first: nothing is left to train before")


def rule_of(name: str, settings: OptimizerBase) -> GroupRule | None:
    """Return the first rule that fits a parameter's name."""
    return next((rule for rule in settings.groups if fnmatchcase(name, rule.match)), None)


def _frozen_at_first(name: str, settings: OptimizerBase) -> bool:
    rule = rule_of(name, settings)
    return rule is not None and rule.frozen_until is not None


def _fits_nothing(pattern: str, names: list[str]) -> str:
    close = difflib.get_close_matches(pattern, names, n=5, cutoff=0.0)
    return (
        f"optimizer.groups: match {pattern!r} fits no parameter. Parameters are called {', '.join(close)}, ... "
        f"({len(names)} in all)"
    )


def parameter_groups(model: nn.Module, settings: OptimizerBase) -> list[Group]:
    """Split the trainable parameters: weights first, then biases and everything a normalization owns.

    The second group is neither decayed nor, under LARS and LAMB, adapted, unless `decay_bias_and_norm` and
    `adapt_bias_and_norm` ask for it (Goyal et al. 2017, section 5.1, for decay; the trust ratio of a bias is undefined
    at its usual start, 0). A parameter with at most one dimension counts as a bias; a layer norm over (C, H, W) is
    recognised by its owner. `groups` and `layer_decay` split both further, in the order of the network. Parameters
    travel as (name, parameter), which torch.optim turns into `param_names`.
    """
    exempt = _exempt_parameters(model)
    factors = layer_factors(model, settings.layer_decay) if settings.layer_decay < 1 else {}
    members: dict[_Treatment, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            treatment = _treatment(parameter in exempt, rule_of(name, settings), factors.get(name, 1.0), settings)
            members.setdefault(treatment, []).append((name, parameter))
    weights_first = sorted(members.items(), key=lambda item: item[0].exempt)
    return [_group(treatment, parameters, settings) for treatment, parameters in weights_first]


def decayed_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the trainable weights: no biases, and nothing that a normalization owns."""
    exempt = _exempt_parameters(model)
    return [parameter for parameter in model.parameters() if parameter.requires_grad and parameter not in exempt]


def _exempt_parameters(model: nn.Module) -> set[nn.Parameter]:
    owned = {
        parameter
        for module in model.modules()
        if isinstance(module, NORMALIZATIONS)
        for parameter in module.parameters(recurse=False)
    }
    return owned | {parameter for parameter in model.parameters() if parameter.ndim <= 1}


def _treatment(exempt: bool, rule: GroupRule | None, layer_factor: float, settings: OptimizerBase) -> _Treatment:
    decay = 0.0 if exempt and not settings.decay_bias_and_norm else settings.weight_decay
    if rule is None:
        return _Treatment(exempt, layer_factor, decay)
    own_decay = decay if rule.weight_decay is None else rule.weight_decay
    return _Treatment(exempt, layer_factor * rule.learning_rate_factor, own_decay, rule.frozen_until)


def _group(treatment: _Treatment, parameters: list[tuple[str, nn.Parameter]], settings: OptimizerBase) -> Group:
    group = {
        "params": parameters,
        "weight_decay": treatment.weight_decay,
        "learning_rate_factor": treatment.factor,
    }
    if treatment.frozen_until is not None:
        group["frozen_until"] = treatment.frozen_until
    if isinstance(settings, Lars | Lamb):
        group["adapt"] = settings.adapt_bias_and_norm or not treatment.exempt
    return group


def describe_parameters(network: nn.Module, groups: list[Group]) -> str:
    """Return what `describe_groups` does as one text, with a last line for what is frozen."""
    frozen = [parameter for parameter in network.parameters() if not parameter.requires_grad]
    return "\n".join([*describe_groups(groups), *([f"frozen: {_count(frozen)}"] if frozen else [])])


def describe_groups(groups: list[Group]) -> list[str]:
    """Return one line per group: what happens to it, how many parameters and how many elements it has.

    Takes the groups of `parameter_groups` or an optimizer's `param_groups`:
    "learning rate x 0.75, adapted, decayed by 5e-05: 54 parameters, 25502912 elements".
    """
    return [_describe(group) for group in groups]


def _describe(group: Group) -> str:
    treatment = f"decayed by {group['weight_decay']:g}" if group["weight_decay"] else "not decayed"
    if "adapt" in group:
        treatment = f"{'adapted' if group['adapt'] else 'not adapted'}, {treatment}"
    factor = group.get("learning_rate_factor", 1.0)
    if factor != 1.0:
        treatment = f"learning rate x {factor:.4g}, {treatment}"
    if "frozen_until" in group:
        length = group["frozen_until"]
        treatment = f"frozen for {length if isinstance(length, str) else f'{length:g} epochs'}, then {treatment}"
    return f"{treatment}: {_count(entry[1] if isinstance(entry, tuple) else entry for entry in group['params'])}"


def _count(parameters: Iterable[Tensor]) -> str:
    sizes = [parameter.numel() for parameter in parameters]
    return f"{len(sizes)} parameters, {sum(sizes)} elements"
