"""What every optimizer must do. A new one gets all of it for one line in OPTIMIZERS."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from megabatch.configs.base import Choice
from megabatch.configs.optimizers import Adagrad, Adam, AdamW, Lamb, Lars, OptimizerBase, RmsProp, Sgd
from megabatch.trainer.optim.groups import parameter_groups
from megabatch.trainer.optim.lamb import lamb
from megabatch.trainer.optim.lars import lars
from megabatch.trainer.optim.standard import adagrad, adam, adamw, rmsprop, sgd
from megabatch.trainer.optim.state import optimizer_tensors


class Candidate(NamedTuple):
    """A builder, its settings, and a learning rate at which the quadratic below is solved in 200 steps."""

    build: Any
    settings: OptimizerBase
    learning_rate: float

    def over(self, model: nn.Module) -> torch.optim.Optimizer:
        return self.build(parameter_groups(model, self.settings), self.settings, self.learning_rate)


OPTIMIZERS = {
    "sgd": Candidate(sgd, Sgd(base_learning_rate=1.0, weight_decay=1e-4), 0.02),
    "sgd_nesterov": Candidate(sgd, Sgd(base_learning_rate=1.0, nesterov=True), 0.02),
    "adagrad": Candidate(adagrad, Adagrad(base_learning_rate=1.0, weight_decay=1e-4), 0.5),
    "rmsprop": Candidate(rmsprop, RmsProp(base_learning_rate=1.0, weight_decay=1e-4), 0.1),
    "rmsprop_momentum": Candidate(rmsprop, RmsProp(base_learning_rate=1.0, momentum=0.9, centered=True), 0.02),
    "adam": Candidate(adam, Adam(base_learning_rate=1.0, weight_decay=1e-4), 0.1),
    "adam_amsgrad": Candidate(adam, Adam(base_learning_rate=1.0, amsgrad=True), 0.1),
    "adamw": Candidate(adamw, AdamW(base_learning_rate=1.0, weight_decay=1e-4), 0.1),
    "lars": Candidate(lars, Lars(base_learning_rate=1.0, weight_decay=1e-4, trust_coefficient=0.1), 0.1),
    "lars_joint": Candidate(
        lars, Lars(base_learning_rate=1.0, trust_coefficient=0.1, denominator="joint", nesterov=True), 0.1
    ),
    "lamb": Candidate(lamb, Lamb(base_learning_rate=1.0, weight_decay=1e-4), 0.1),
}

pytestmark = [
    pytest.mark.parametrize("candidate", [pytest.param(c, id=name) for name, c in OPTIMIZERS.items()]),
    pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"]),
]


def layers(dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 4, 3, bias=False)  # before a batch norm a bias has no gradient
    return nn.Sequential(convolution, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).to(dtype)


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    """Take steps whose data and learning rate depend on the step's number alone; return the losses."""
    losses = []
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (1 + step)
        generator = torch.Generator().manual_seed(step)
        images_NCHW = torch.randn(8, 3, 4, 4, generator=generator).to(next(model.parameters()).dtype)
        loss = nn.functional.cross_entropy(model(images_NCHW), images_NCHW.mean((1, 2, 3)).gt(0).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_small_quadratic_is_solved(candidate: Candidate, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    start, target = (torch.randn(4, 3, generator=generator, dtype=dtype) for _ in range(2))
    model = nn.ParameterDict({"weight": nn.Parameter(start.clone()), "bias": nn.Parameter(start[0].clone())})
    optimizer = candidate.over(model)
    losses = []
    for step in range(200):
        for group in optimizer.param_groups:
            group["lr"] = candidate.learning_rate * (1 - step / 200)
        optimizer.zero_grad()
        loss = (model["weight"] - target).square().sum() + (model["bias"] - target[0]).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 1e-3 * losses[0]


def test_a_restored_state_continues_bit_for_bit(candidate: Candidate, dtype: torch.dtype) -> None:
    model = layers(dtype)
    optimizer = candidate.over(model)
    learn(model, optimizer, range(4))
    saved_model, saved = copy.deepcopy(model), copy.deepcopy(optimizer.state_dict())
    losses = learn(model, optimizer, range(4, 8))

    restored = candidate.over(saved_model)
    restored.load_state_dict(saved)
    assert learn(saved_model, restored, range(4, 8)) == losses
    for ours, theirs in zip(saved_model.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_state_is_needed_to_continue(candidate: Candidate, dtype: torch.dtype) -> None:
    model = layers(dtype)
    optimizer = candidate.over(model)
    learn(model, optimizer, range(4))
    forgetful = copy.deepcopy(model)
    assert learn(model, optimizer, range(4, 8)) != learn(forgetful, candidate.over(forgetful), range(4, 8))


def test_the_state_is_tensors_that_safetensors_can_keep(candidate: Candidate, dtype: torch.dtype) -> None:
    model = layers(dtype)
    optimizer = candidate.over(model)
    learn(model, optimizer, range(2))
    tensors = {
        f"{number}/{key}": value
        for number, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
    }
    kept = load(save(tensors))
    assert len(kept) >= len(list(model.parameters()))
    assert all(torch.equal(kept[name], value) and kept[name].dtype == value.dtype for name, value in tensors.items())
    assert all(value.dtype == dtype for name, value in kept.items() if not name.endswith("/step"))


@pytest.mark.parametrize("weight", [0.0, 1.0])
@pytest.mark.parametrize("gradient", [0.0, 1.0])
def test_zero_weights_and_zero_gradients_stay_finite(
    candidate: Candidate, dtype: torch.dtype, weight: float, gradient: float
) -> None:
    model = nn.ParameterDict({"weight": nn.Parameter(torch.full((2, 2), weight, dtype=dtype))})
    optimizer = candidate.over(model)
    for _ in range(3):
        model["weight"].grad = torch.full((2, 2), gradient, dtype=dtype)
        optimizer.step()
    assert torch.isfinite(model["weight"]).all()
    assert (model["weight"].detach() != weight).all().item() == bool(gradient or (weight and has_decay(candidate)))


def has_decay(candidate: Candidate) -> bool:
    return candidate.settings.weight_decay > 0


def test_a_parameter_without_a_gradient_is_untouched(candidate: Candidate, dtype: torch.dtype) -> None:
    model = layers(dtype)
    before = copy.deepcopy(model)
    optimizer = candidate.over(model)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    optimizer.step()
    moved = [
        name
        for (name, now), then in zip(model.named_parameters(), before.parameters(), strict=True)
        if not torch.equal(now, then)
    ]
    assert moved == ["0.weight"]
    fresh = optimizer_tensors(candidate.over(before))  # Adagrad makes its state at once, the others when it is needed
    state = optimizer_tensors(optimizer)
    changed = {path for path, now in state.items() if path not in fresh or not torch.equal(now, fresh[path])}
    assert {path.partition("/")[0] for path in changed} <= {"0.weight"}


def test_the_gradient_is_never_written(candidate: Candidate, dtype: torch.dtype) -> None:
    model = layers(dtype)
    optimizer = candidate.over(model)
    learn(model, optimizer, range(2))
    before = [parameter.grad.clone() for parameter in model.parameters()]
    optimizer.step()
    assert all(torch.equal(p.grad, then) for p, then in zip(model.parameters(), before, strict=True))


def test_convolution_and_batch_norm_are_trained(candidate: Candidate, dtype: torch.dtype) -> None:
    model = layers(dtype)
    before = copy.deepcopy(model)
    losses = learn(model, candidate.over(model), range(3))
    assert all(torch.isfinite(torch.tensor(losses)))
    for now, then in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.isfinite(now).all()
        assert not torch.equal(now, then)
        assert now.dtype == dtype


def test_the_memory_format_of_the_gradient_does_not_matter(candidate: Candidate, dtype: torch.dtype) -> None:
    """torch's fused CPU kernels fail here: they pair elements by address (torch 2.15)."""
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        weight = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=dtype)
        model = nn.ParameterDict({"weight": nn.Parameter(weight)})
        gradient = torch.arange(48, dtype=dtype).view(4, 3, 2, 2) / 48
        optimizer = candidate.over(model)
        for _ in range(3):
            model["weight"].grad = gradient.clone(memory_format=memory_format)
            optimizer.step()
        results.append(model["weight"].detach())
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


def test_a_step_reads_no_value_back_from_the_device(candidate: Candidate, dtype: torch.dtype) -> None:
    model = nn.Linear(3, 2, device="meta", dtype=dtype)  # a meta tensor has no value: reading one raises
    optimizer = candidate.over(model)
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()


def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned(candidate: Candidate, dtype: torch.dtype) -> None:
    model = nn.ParameterDict({"weight": nn.Parameter(torch.ones(2, 2, dtype=dtype))})
    optimizer = candidate.over(model)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model["weight"].square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert (model["weight"] < 1).all()


def test_the_recipe_points_at_the_builder(candidate: Candidate, dtype: torch.dtype) -> None:
    module, _, function = candidate.settings.implementation.partition(":")
    assert isinstance(candidate.settings, Choice)
    assert (candidate.build.__module__, candidate.build.__name__) == (module, function)
