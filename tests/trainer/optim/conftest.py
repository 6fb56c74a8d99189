"""A small network of bare parameters, gradients for ten steps, and the walk an optimizer takes through them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

Arrays = dict[str, np.ndarray]
GOLDEN = Path(__file__).parents[2] / "golden" / "optax_lars_lamb.json"


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    return json.loads(GOLDEN.read_text())


@pytest.fixture
def initial(golden: dict[str, Any]) -> Arrays:
    return {name: np.asarray(value) for name, value in golden["parameters"].items()}


@pytest.fixture
def gradients(golden: dict[str, Any]) -> list[Arrays]:
    return [{name: np.asarray(value) for name, value in step.items()} for step in golden["gradients"]]


@pytest.fixture
def learning_rates(golden: dict[str, Any]) -> list[float]:
    return golden["learning_rates"]


@pytest.fixture
def network(initial: Arrays) -> Callable[[torch.dtype], nn.ParameterDict]:
    """Make a module of the initial parameters: weights of 2 and 4 dimensions, a bias, a weight at 0."""

    def make(dtype: torch.dtype = torch.float64) -> nn.ParameterDict:
        return nn.ParameterDict(
            {name: nn.Parameter(torch.tensor(value, dtype=dtype)) for name, value in initial.items()}
        )

    return make


@pytest.fixture
def walk(gradients: list[Arrays]) -> Callable[..., list[Arrays]]:
    """Take one step per learning rate and return the parameters after each."""

    def take(optimizer: torch.optim.Optimizer, parameters: nn.ParameterDict, rates: list[float]) -> list[Arrays]:
        after = []
        for gradient, rate in zip(gradients, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
            for name, parameter in parameters.items():
                parameter.grad = torch.tensor(gradient[name], dtype=parameter.dtype)
            optimizer.step()
            after.append({name: parameter.detach().double().numpy().copy() for name, parameter in parameters.items()})
        return after

    return take


@pytest.fixture
def difference() -> Callable[[list[Arrays], list[Arrays]], float]:
    """The largest absolute difference between two walks, over all steps and elements."""

    def largest(ours: list[Arrays], theirs: list[Arrays]) -> float:
        assert len(ours) == len(theirs)
        return max(float(np.abs(a[name] - b[name]).max()) for a, b in zip(ours, theirs, strict=True) for name in b)

    return largest
