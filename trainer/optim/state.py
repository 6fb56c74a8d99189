"""An optimizer's state by parameter name: a checkpoint does not depend on the order of parameters.

Tensors go to safetensors; what is no tensor (step counters of some optimizers, running values in groups) to JSON.
"""

from __future__ import annotations

from typing import Any

import torch

from megabatch.trainer.optim.groups import Group
from megabatch.trainer.sharding import cut_like

Tensors = dict[str, torch.Tensor]
Plain = bool | int | float
_SET_ELSEWHERE = ("params", "param_names", "lr")
_GROUP = "group:"


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """Return `{"layer.weight/momentum_buffer": tensor, ...}` for every tensor in the optimizer's state.

    A tensor that belongs to a group of parameters is called "group:0/step".
    """
    values = _state(optimizer)
    for number, group in enumerate(optimizer.param_groups):
        values |= {f"{_GROUP}{number}/{key}": value for key, value in group.items() if key not in _SET_ELSEWHERE}
    return {path: value for path, value in values.items() if isinstance(value, torch.Tensor)}


def optimizer_numbers(optimizer: torch.optim.Optimizer) -> dict[str, Any]:  # Any: JSON
    """Return what the optimizer remembers beside tensors: `{"state": {"layer.weight/step": 3}, "groups": [...]}`."""
    return {
        "state": {path: value for path, value in _state(optimizer).items() if isinstance(value, Plain)},
        "groups": group_numbers(optimizer),
    }


def group_numbers(optimizer: torch.optim.Optimizer) -> list[dict[str, Plain]]:
    """Return the settings and running numbers of each group of parameters, but for the learning rate."""
    return [_numbers(group) for group in optimizer.param_groups]


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors, numbers: dict[str, Any]) -> None:
    """Put back what `optimizer_tensors` and `optimizer_numbers` gave; a step counter stays where the optimizer has it.

    A tensor of a parameter's shape gets its layout in memory too, so that the same kernels run as before.
    """
    named = dict(_named(optimizer))
    places = {name: place for place, name in enumerate(named)}
    state: dict[int, dict[str, Any]] = {}
    of_groups: list[dict[str, Any]] = [dict(values) for values in numbers["groups"]]
    for path, value in {**tensors, **numbers["state"]}.items():
        name, _, key = path.rpartition("/")
        if name.startswith(_GROUP):
            of_groups[int(name.removeprefix(_GROUP))][key] = value
            continue
        if isinstance(value, torch.Tensor) and value.shape == named[name].shape:
            like = named[name]
            value = torch.empty_like(like, dtype=value.dtype, device=value.device).copy_(cut_like(like, value))
        state.setdefault(places[name], {})[key] = value
    state_dict = optimizer.state_dict()
    state_dict["state"] = state
    optimizer.load_state_dict(state_dict)
    for group, values in zip(optimizer.param_groups, of_groups, strict=True):
        known = {*values, *optimizer.defaults, *_SET_ELSEWHERE}
        for key in [
            key for key, value in group.items() if key not in known and isinstance(value, Plain | torch.Tensor)
        ]:
            del group[key]  # the optimizer began to count after this was saved
        group.update(values)


def _state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {
        f"{name}/{key}": value
        for name, parameter in _named(optimizer)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _numbers(group: Group) -> dict[str, Plain]:
    return {key: value for key, value in group.items() if key not in _SET_ELSEWHERE and isinstance(value, Plain)}


def _named(optimizer: torch.optim.Optimizer) -> list[tuple[str, torch.Tensor]]:
    return [
        (name, parameter)
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    ]
