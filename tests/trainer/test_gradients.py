"""Penalties and clipping against autograd, torch and timm; and which steps are passed over."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from timm.utils.agc import adaptive_clip_grad
from torch import nn

from megabatch.configs.regularization import Regularization
from megabatch.configs.stability import Stability
from megabatch.trainer.clipping import add_penalties, clip
from megabatch.trainer.guard import GuardState, harm_of
from megabatch.trainer.optim.groups import decayed_parameters


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    return layers.double()


def loss(model: nn.Module) -> torch.Tensor:
    out: torch.Tensor = model(torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    return out.square().sum()


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize(("l1", "l2"), [(0.1, 0.0), (0.0, 0.2), (0.3, 0.4)])
def test_penalties_are_what_autograd_makes_of_them_in_the_loss(l1: float, l2: float) -> None:
    expected, model = network(), network()
    weights = decayed_parameters(expected)
    assert [tuple(weight.shape) for weight in weights] == [(4, 3, 3, 3), (5, 144)]
    penalty = sum((l1 * weight.abs().sum() + l2 / 2 * weight.square().sum() for weight in weights), torch.zeros(()))
    (loss(expected) + penalty).backward()
    loss(model).backward()
    add_penalties(decayed_parameters(model), l1, l2)
    for mine, reference in zip(gradients(model), gradients(expected), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "reference"),
    [
        (Regularization(clip_norm=0.5), lambda ps: nn.utils.clip_grad_norm_(ps, 0.5)),
        (Regularization(clip_value=0.01), lambda ps: nn.utils.clip_grad_value_(ps, 0.01)),
        (Regularization(clip_adaptive=0.02), lambda ps: adaptive_clip_grad(ps, 0.02)),
        (Regularization(), lambda ps: None),
    ],
)
@pytest.mark.parametrize("measured", [True, False])
def test_gradients_are_clipped_as_torch_and_timm_clip_them(
    settings: Regularization, reference: object, measured: bool
) -> None:
    expected, model = network(), network()
    for one in (expected, model):
        loss(one).backward()
    before = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients(model)))
    norm = clip(list(model.parameters()), settings, measured)
    reference(list(expected.parameters()))  # type: ignore[operator]
    for mine, other in zip(gradients(model), gradients(expected), strict=True):
        assert torch.equal(mine, other)
    known = measured or settings.clip_norm is not None
    assert norm is not None if known else norm is None
    if norm is not None:
        assert float(norm) == pytest.approx(before)


def test_only_one_way_to_clip() -> None:
    with pytest.raises(ValidationError, match="clip_norm and clip_adaptive: clip in one way"):
        Regularization(clip_norm=1.0, clip_adaptive=0.01)


def test_a_step_that_is_not_finite_is_passed_over() -> None:
    settings, state = Stability(on_bad_step="pass_over"), GuardState()
    assert harm_of(settings, state, 0, 1.0, 2.0) is None
    assert harm_of(settings, state, 1, math.nan, 2.0) == "the loss is nan"
    assert harm_of(settings, state, 2, 1.0, math.inf) == "the gradient norm is inf"
    assert state.bad_steps == 2


def test_a_loss_far_above_the_median_of_the_last_ones_is_passed_over_and_not_remembered() -> None:
    settings, state = Stability(loss_spike=3.0, window=5), GuardState()
    assert [harm_of(settings, state, 0, loss, None) for loss in (9.0, 9.0, 1.0, 1.0, 1.0)] == [None] * 5
    assert harm_of(settings, state, 0, 2.9, None) is None
    assert state.recent == [9.0, 1.0, 1.0, 1.0, 2.9]
    assert harm_of(settings, state, 0, 3.1, None) == ("the loss 3.1 is more than 3 times 1, the median of the last 5")
    assert state.recent == [9.0, 1.0, 1.0, 1.0, 2.9]
