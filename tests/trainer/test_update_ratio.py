"""The size of an update relative to the weights, against the definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from megabatch.trainer.update_ratio import update_ratio


def test_the_ratio_is_that_of_the_norms_over_all_weights() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    model(torch.randn(4, 3, dtype=torch.float64)).square().sum().backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ratio = update_ratio(list(model.parameters()), lambda: optimizer.step() and None)
    assert ratio == pytest.approx(float((0.1 * gradient).norm() / flat.norm()), rel=1e-12)
    moved = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert math.isclose(float((moved - flat).norm() / flat.norm()), ratio, rel_tol=1e-9)


def test_weights_that_are_all_zero_have_the_ratio_0() -> None:
    weight = nn.Parameter(torch.zeros(3))
    assert update_ratio([weight], lambda: None) == 0.0
