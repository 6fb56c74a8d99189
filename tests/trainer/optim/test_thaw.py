"""Groups that are frozen at first: until their step nothing of them moves, and then they begin as in a new optimizer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from megabatch.configs.errors import ConfigError
from megabatch.configs.load import load
from megabatch.configs.optimizers import OptimizerBase
from megabatch.data.steps import Steps
from megabatch.trainer.build import implementation
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.optim.groups import describe_groups, freeze, parameter_groups
from megabatch.trainer.optim.thaw import thaw_of

STEPS = Steps(samples=40, epochs=3, global_batch=20, micro_batch=20, last_batch="short")
UNTIL = 3  # steps
# timm/adan counts steps for a whole group.
OPTIMIZERS = ("sgd", "adagrad", "rmsprop", "adam", "adamw", "lars", "lamb", "timm/adan", "torch/NAdam")


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def settings(name: str, *groups: str) -> OptimizerBase:
    text = (
        f"{{name: {name}, base_learning_rate: 0.1, scaling: none, weight_decay: 0.01, groups: [{', '.join(groups)}]}}"
    )
    return load("digits", "laptop", [f"optimizer={text}"]).recipe.optimizer


def made(model: nn.Module, chosen: OptimizerBase) -> torch.optim.Optimizer:
    freeze(model, chosen)
    optimizer: torch.optim.Optimizer = implementation(chosen)(parameter_groups(model, chosen), chosen, 0.1)
    return optimizer


def set_gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        values = torch.randn(parameter.shape, generator=generator)
        parameter.grad = values if parameter.requires_grad else None


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_parameters_stay_and_then_begin_as_in_a_new_optimizer(name: str) -> None:
    """The reference has an optimizer for either part, and takes the second one up at the step."""
    rules = (
        "{match: '0.*', learning_rate_factor: 0.5, frozen_until: 3 steps}",
        "{match: '0.*', learning_rate_factor: 0.5}",
    )
    model = network()
    parts = [copy.deepcopy(model) for _ in range(2)]
    optimizer = made(model, settings(name, rules[0]))
    head, body = (
        made(parts[0], settings(name, "{match: '0.*', frozen: true}")),
        made(parts[1], settings(name, rules[1], "{match: '*', frozen: true}")),
    )
    thaw = thaw_of(optimizer, STEPS)
    assert thaw is not None
    assert thaw.last == UNTIL
    groups = len(optimizer.param_groups)
    for step in range(6):
        set_gradients(model, step)
        thaw.hold_back(step)
        optimizer.step()
        thaw.show_all()
        assert len(optimizer.param_groups) == groups
        for reference, first in ((head, 0), (body, UNTIL)):
            part = parts[0] if reference is head else parts[1]
            set_gradients(part, step)
            if step >= first:
                reference.step()
        expected = [*list(parts[1].parameters())[:2], *list(parts[0].parameters())[2:]]
        assert all(torch.equal(mine, its) for mine, its in zip(model.parameters(), expected, strict=True)), step


@pytest.mark.parametrize(("length", "first"), [("1.0", 2), ("4 steps", 4), ("50 samples", 3), ("0.1", 1)])
def test_the_step_follows_from_epochs_steps_or_samples(length: str, first: int) -> None:
    model = network()
    thaw = thaw_of(made(model, settings("sgd", f"{{match: '0.*', frozen_until: {length}}}")), STEPS)
    assert thaw is not None
    assert thaw.last == first
    assert thaw_of(made(network(), settings("sgd")), STEPS) is None


def test_the_groups_say_how_long_they_are_frozen() -> None:
    chosen = settings("sgd", "{match: '0.*', frozen_until: 2}", "{match: '1.*', frozen_until: 500 steps}")
    lines = describe_groups(parameter_groups(network(), chosen))
    assert lines[0] == "frozen for 2 epochs, then decayed by 0.01: 1 parameters, 108 elements"
    assert lines[-2:] == [
        "frozen for 500 steps, then not decayed: 2 parameters, 8 elements", "not decayed: 1 parameters, 2 elements",
    ]  # fmt: skip


def test_something_must_be_trained_from_the_first_step() -> None:
    with pytest.raises(TrainingError, match="freezes every parameter at first"):
        freeze(network(), settings("sgd", "{match: '*', frozen_until: 2}"))


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("{match: a, frozen: true, frozen_until: 2}", "frozen: true is for good, frozen_until for a while"),
        ("{match: a, frozen_until: 0}", "frozen_until: 0 freezes nothing: leave it out"),
        ("{match: a, frozen_until: soon}", "write a number of epochs"),
    ],
)
def test_a_rule_that_says_two_things_or_nothing_is_refused(rule: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settings("sgd", rule)
    assert told in str(refused.value)
