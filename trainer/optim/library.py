"""Optimizers of torch.optim and timm by name: found, checked against what a training here can give them, and built.

Knows no optimizer by name, but for those that cannot work. That the state of one can be put back exactly is not
believed but tried out (state_check.py), on small tensors, before a launch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from megabatch.configs.errors import nearest
from megabatch.configs.optimizers import LibraryOptimizer
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.optim.groups import Group
from megabatch.trainer.optim.state_check import check_state

Build = Callable[..., torch.optim.Optimizer]

_KRON = "it keeps lists of tensors and a generator of its own, which a checkpoint here does not hold"
_REFUSED = {
    "torch/LBFGS": "it computes the loss several times a step (a closure), and a step here has one gradient",
    "torch/SparseAdam": "it takes sparse gradients only, and those of image models are dense",
    "timm/adahessian": "it needs second derivatives (backward with create_graph=True)",
    **dict.fromkeys(("timm/kron", "timm/kronc", "timm/kronw"), _KRON),
}
_ELSEWHERE = {
    "lr": "write optimizer.base_learning_rate",
    "weight_decay": "write optimizer.weight_decay",
    "params": "see optimizer.groups",
    "fused": "leave it out: fused kernels on the CPU go wrong silently with some memory layouts",
    "maximize": "leave it out: a loss is minimized here",
    "differentiable": "leave it out: nobody differentiates through a step here",
    "capturable": "leave it out: steps are not captured in CUDA graphs here",
}


def library_optimizer(groups: list[Group], settings: LibraryOptimizer, learning_rate: float) -> torch.optim.Optimizer:
    """Build `torch/NAME` or `timm/NAME`. Raises TrainingError for what is unknown or cannot work, saying why."""
    build = _find(settings.name)
    _check_options(build, settings)
    arguments: dict[str, Any] = {"lr": learning_rate, **settings.options}
    if "weight_decay" in inspect.signature(build).parameters:
        arguments["weight_decay"] = settings.weight_decay
    elif any(group["weight_decay"] for group in groups):
        raise TrainingError(f"optimizer {settings.name} has no weight decay: set optimizer.weight_decay=0")
    copies = [{key: value for key, value in group.items() if key != "adapt"} for group in groups]
    try:
        return build(copies, **arguments)
    except (TypeError, ValueError, ImportError, AssertionError, RuntimeError) as error:
        raise TrainingError(f"optimizer {settings.name} with options {settings.options}: {error}") from error


def check_library_optimizer(settings: LibraryOptimizer) -> None:
    """Raise TrainingError if the optimizer is unknown, cannot be built, or cannot be resumed exactly."""
    check_state(settings.name, lambda groups: library_optimizer(groups, settings, 0.01), settings.weight_decay)


def _find(full_name: str) -> Build:
    if full_name in _REFUSED:
        raise TrainingError(f"optimizer {full_name} cannot be used: {_REFUSED[full_name]}. Choose another")
    library, _, name = full_name.partition("/")
    return _find_in_torch(name) if library == "torch" else _find_in_timm(name)


def _find_in_torch(name: str) -> Build:
    known = {
        key: value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
    }
    if name not in known:
        raise TrainingError(f"torch.optim has no {name!r}. {nearest(name, sorted(known))}")
    return known[name]


def _find_in_timm(name: str) -> Build:
    from timm.optim import get_optimizer_class, list_optimizers

    if name not in list_optimizers():
        raise TrainingError(f"timm.optim has no {name!r}. {nearest(name, list_optimizers())}")
    try:
        build: Build = get_optimizer_class(name, bind_defaults=True)
    except (ImportError, AssertionError, ValueError) as error:  # a wrapper of a package that is not installed
        raise TrainingError(f"optimizer timm/{name}: {error}") from error
    return build


def _check_options(build: Build, settings: LibraryOptimizer) -> None:
    parameters = inspect.signature(build).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    allowed = [name for name in parameters if name not in _ELSEWHERE]
    for option in settings.options:
        where = f"optimizer.options.{option} of {settings.name}"
        if option in _ELSEWHERE:
            raise TrainingError(f"{where}: {_ELSEWHERE[option]}")
        if option not in parameters and not takes_any:
            raise TrainingError(f"{where}: unknown. {nearest(option, allowed)}")
