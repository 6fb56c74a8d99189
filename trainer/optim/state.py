"""An optimizer's state as tensors by parameter name: a checkpoint does not depend on the order of parameters."""

from __future__ import annotations

import torch

Tensors = dict[str, torch.Tensor]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """Return `{"layer.weight/momentum_buffer": tensor, ...}` for every tensor in the optimizer's state."""
    return {
        f"{name}/{key}": value
        for name, parameter in _named(optimizer)
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Put back what `optimizer_tensors` gave; a step counter stays where the optimizer keeps it."""
    by_parameter: dict[str, Tensors] = {}
    for path, tensor in tensors.items():
        name, _, key = path.rpartition("/")
        by_parameter.setdefault(name, {})[key] = tensor
    state_dict = optimizer.state_dict()
    numbers = {name: number for number, (name, _) in enumerate(_named(optimizer))}
    state_dict["state"] = {numbers[name]: values for name, values in by_parameter.items()}
    optimizer.load_state_dict(state_dict)


def _named(optimizer: torch.optim.Optimizer) -> list[tuple[str, torch.Tensor]]:
    return [
        (name, parameter)
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    ]
