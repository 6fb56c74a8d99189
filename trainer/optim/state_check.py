"""Tries out whether an optimizer goes on from a checkpoint as if it had never stopped: three tensors, seven steps.

An optimizer may keep what a checkpoint does not see (lists of tensors, generators, values on the object). To find out
costs milliseconds, and is sure to be right about the version that is installed.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from torch import Tensor, nn

from megabatch.data.hashing import key
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.optim.groups import Group
from megabatch.trainer.optim.state import load_optimizer, optimizer_numbers, optimizer_tensors

_TAG = 20  # what a key is for: the numbers tried here
_SHAPES = {"convolution": (6, 4, 3, 3), "linear": (5, 6), "bias": (5,)}
_BEFORE, _AFTER = 4, 3
Build = Callable[[list[Group]], torch.optim.Optimizer]


def check_state(name: str, build: Build, weight_decay: float) -> None:
    """Raise TrainingError if the optimizer cannot step, or if its state does not survive a checkpoint bit for bit."""
    try:
        alone = _Trial(build, weight_decay)
        alone.take(range(_BEFORE))
        tensors = {path: tensor.clone() for path, tensor in optimizer_tensors(alone.optimizer).items()}
        numbers = json.loads(json.dumps(optimizer_numbers(alone.optimizer)))
        resumed = _Trial(build, weight_decay)
        resumed.copy(alone)
        load_optimizer(resumed.optimizer, tensors, numbers)
        for trial in (alone, resumed):
            trial.take(range(_BEFORE, _BEFORE + _AFTER))
        equal = all(torch.equal(resumed.parameters[shape], alone.parameters[shape]) for shape in _SHAPES)
    except TrainingError:
        raise
    except Exception as error:  # somebody else's optimizer may fail in any way
        raise TrainingError(f"optimizer {name} cannot take steps here: {type(error).__name__}: {error}") from error
    if not equal:
        raise TrainingError(
            f"optimizer {name} does not go on from a checkpoint as if it had not stopped: it keeps more than tensors "
            "and numbers of parameters and groups, so a resumed run would be another one. Choose another"
        )


class _Trial:
    """A few parameters and the optimizer over them."""

    def __init__(self, build: Build, weight_decay: float):
        self.parameters = {name: nn.Parameter(_numbers(0, name, shape)) for name, shape in _SHAPES.items()}
        group = {"params": list(self.parameters.items()), "weight_decay": weight_decay, "learning_rate_factor": 1.0}
        self.optimizer = build([group])

    def copy(self, other: _Trial) -> None:
        """Take over the other's parameters."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(other.parameters[name])

    def take(self, steps: range) -> None:
        """Take steps whose gradients depend on the number of the step alone."""
        for step in steps:
            for name, parameter in self.parameters.items():
                parameter.grad = _numbers(1 + step, name, parameter.shape)
            self.optimizer.step()


def _numbers(step: int, name: str, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(key(_TAG, step, list(_SHAPES).index(name)))
    return torch.randn(shape, generator=generator)
