"""Which parameters are decayed and adapted, under every combination of the switches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from megabatch.configs.optimizers import Adagrad, Adam, AdamW, Lamb, Lars, OptimizerBase, RmsProp, Sgd
from megabatch.configs.parameter_groups import GroupRule
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.optim.groups import describe_groups, describe_parameters, freeze, parameter_groups
from megabatch.trainer.optim.lamb import lamb
from megabatch.trainer.optim.lars import lars
from megabatch.trainer.optim.standard import adagrad, adam, adamw, rmsprop, sgd

BUILDERS = {Sgd: sgd, Adagrad: adagrad, RmsProp: rmsprop, Adam: adam, AdamW: adamw, Lars: lars, Lamb: lamb}
ALL = [pytest.param(kind, id=kind.__name__) for kind in BUILDERS]
LAYERWISE = [pytest.param(kind, id=kind.__name__) for kind in (Lars, Lamb)]


def settings(kind: type[OptimizerBase], **changes: Any) -> OptimizerBase:
    return kind(**({"base_learning_rate": 1.0, "weight_decay": 0.05} | changes))


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def names(group: dict[str, Any]) -> list[str]:
    return [name for name, _ in group["params"]]


@pytest.mark.parametrize("kind", ALL)
def test_weights_come_first_and_biases_and_norms_second(kind: type[OptimizerBase]) -> None:
    weights, exempt = parameter_groups(network(), settings(kind))
    assert names(weights) == ["0.weight", "3.weight"]
    assert names(exempt) == ["0.bias", "1.weight", "1.bias", "3.bias"]


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(4),
        nn.SyncBatchNorm(4),
        nn.InstanceNorm2d(4, affine=True),
        nn.GroupNorm(2, 4),
        nn.LayerNorm((4, 3, 3)),
        nn.RMSNorm((4, 3, 3)),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_whatever_a_normalization_owns_is_exempt_even_with_three_dimensions(norm: nn.Module) -> None:
    weights, exempt = parameter_groups(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), norm), settings(Lars))
    assert names(weights) == ["0.weight"]
    assert names(exempt) == [f"1.{name}" for name, _ in norm.named_parameters()]


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("decay_bias_and_norm", [False, True])
def test_biases_and_norms_are_decayed_only_on_request(kind: type[OptimizerBase], decay_bias_and_norm: bool) -> None:
    weights, exempt = parameter_groups(network(), settings(kind, decay_bias_and_norm=decay_bias_and_norm))
    assert weights["weight_decay"] == 0.05
    assert exempt["weight_decay"] == (0.05 if decay_bias_and_norm else 0.0)


@pytest.mark.parametrize("kind", LAYERWISE)
@pytest.mark.parametrize("adapt_bias_and_norm", [False, True])
def test_biases_and_norms_are_adapted_only_on_request(kind: type[OptimizerBase], adapt_bias_and_norm: bool) -> None:
    weights, exempt = parameter_groups(network(), settings(kind, adapt_bias_and_norm=adapt_bias_and_norm))
    assert (weights["adapt"], exempt["adapt"]) == (True, adapt_bias_and_norm)


def update_of_bias(kind: type[OptimizerBase], **switches: bool) -> float:
    """Return how far one step moves a bias of 10 whose gradient is 2, at learning rate 0.1."""
    bias = nn.Parameter(torch.tensor([10.0], dtype=torch.float64))
    bias.grad = torch.tensor([2.0], dtype=torch.float64)
    chosen = settings(kind, **switches)
    BUILDERS[kind](parameter_groups(nn.ParameterDict({"bias": bias}), chosen), chosen, 0.1).step()
    return 10.0 - bias.item()


@pytest.mark.parametrize(
    ("switches", "update"),
    [
        ({}, 0.1 * 2),  # momentum SGD
        ({"decay_bias_and_norm": True}, 0.1 * (2 + 0.05 * 10)),
        ({"adapt_bias_and_norm": True}, 0.1 * (0.001 * 10 / 2) * 2),
        ({"decay_bias_and_norm": True, "adapt_bias_and_norm": True}, 0.1 * (0.001 * 10 / (2 + 0.5)) * 2.5),
    ],
)
def test_lars_skips_decay_and_adaptation_of_a_bias_separately(switches: dict[str, bool], update: float) -> None:
    assert update_of_bias(Lars, **switches) == pytest.approx(update, rel=1e-12)


@pytest.mark.parametrize(
    ("switches", "update"),
    [
        ({}, 0.1),  # Adam's first step is the sign of the gradient
        ({"decay_bias_and_norm": True}, 0.1 * (1 + 0.05 * 10)),
        ({"adapt_bias_and_norm": True}, 0.1 * 10),
        ({"decay_bias_and_norm": True, "adapt_bias_and_norm": True}, 0.1 * 10),
    ],
)
def test_lamb_skips_decay_and_adaptation_of_a_bias_separately(switches: dict[str, bool], update: float) -> None:
    assert update_of_bias(Lamb, **switches) == pytest.approx(update, rel=1e-6)


@pytest.mark.parametrize("kind", ALL)
def test_groups_of_an_optimizer_carry_the_names_of_their_parameters(kind: type[OptimizerBase]) -> None:
    chosen, model = settings(kind), network()
    optimizer = BUILDERS[kind](parameter_groups(model, chosen), chosen, 0.1)
    by_name = dict(model.named_parameters())
    paired = [pair for g in optimizer.param_groups for pair in zip(g["param_names"], g["params"], strict=True)]
    assert len(paired) == len(by_name)
    assert all(by_name[name] is parameter for name, parameter in paired)


@pytest.mark.parametrize("kind", ALL)
def test_building_an_optimizer_leaves_the_groups_as_they_were(kind: type[OptimizerBase]) -> None:
    chosen, model = settings(kind), network()
    groups = parameter_groups(model, chosen)
    BUILDERS[kind](groups, chosen, 0.1)
    assert [(list(g), names(g)) for g in groups] == [(list(g), names(g)) for g in parameter_groups(model, chosen)]


@pytest.mark.parametrize("kind", ALL)
def test_a_group_without_a_decay_of_its_own_takes_the_settings(kind: type[OptimizerBase]) -> None:
    optimizer = BUILDERS[kind]([{"params": list(network().named_parameters())}], settings(kind), 0.1)
    assert (optimizer.param_groups[0]["weight_decay"], optimizer.param_groups[0]["lr"]) == (0.05, 0.1)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, id=kind.__name__) for kind in (Sgd, Adagrad, RmsProp, Adam, AdamW)]
)
def test_adapt_never_reaches_torchs_own_optimizers(kind: type[OptimizerBase]) -> None:
    chosen = settings(kind)
    groups = parameter_groups(network(), chosen)
    assert all("adapt" not in group for group in groups)
    groups = parameter_groups(network(), settings(Lars))
    assert all("adapt" not in group for group in BUILDERS[kind](groups, chosen, 0.1).param_groups)


def test_frozen_parameters_are_left_out() -> None:
    model = network()
    model[0].requires_grad_(False)
    weights, exempt = parameter_groups(model, settings(Lars))
    assert names(weights) + names(exempt) == ["3.weight", "1.weight", "1.bias", "3.bias"]


def test_a_shared_parameter_is_in_one_group_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    assert [names(group) for group in parameter_groups(model, settings(Lars))] == [["0.weight"]]


def test_empty_groups_are_left_out() -> None:
    assert len(parameter_groups(nn.Linear(2, 2, bias=False), settings(Lars))) == 1
    assert len(parameter_groups(nn.BatchNorm1d(2), settings(Lars))) == 1


def test_the_description_counts_what_is_adapted_and_decayed_and_what_is_not() -> None:
    chosen, model = settings(Lars, weight_decay=5e-5), network()
    lines = [
        "adapted, decayed by 5e-05: 2 parameters, 140 elements",
        "not adapted, not decayed: 4 parameters, 14 elements",
    ]
    groups = parameter_groups(model, chosen)
    assert describe_groups(groups) == lines
    assert describe_groups(lars(groups, chosen, 0.1).param_groups) == lines


def test_the_description_of_sgd_says_nothing_of_adaptation() -> None:
    assert describe_groups(parameter_groups(network(), settings(Sgd))) == [
        "decayed by 0.05: 2 parameters, 140 elements",
        "not decayed: 4 parameters, 14 elements",
    ]


def ruled(*rules: dict[str, Any], **changes: Any) -> OptimizerBase:
    return settings(Sgd, groups=tuple(GroupRule(**rule) for rule in rules), **changes)


def by_name(groups: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    return {name: (g["learning_rate_factor"], g["weight_decay"]) for g in groups for name in names(g)}


def test_the_first_rule_that_fits_holds() -> None:
    chosen = ruled(
        {"match": "3.*", "learning_rate_factor": 10.0},
        {"match": "*.weight", "learning_rate_factor": 0.5, "weight_decay": 0.2},
    )
    assert by_name(parameter_groups(network(), chosen)) == {
        "0.weight": (0.5, 0.2), "3.weight": (10.0, 0.05), "0.bias": (1.0, 0.0), "1.weight": (0.5, 0.2),
        "1.bias": (1.0, 0.0), "3.bias": (10.0, 0.0),
    }  # fmt: skip


def test_a_rule_and_layer_decay_multiply() -> None:
    chosen = ruled({"match": "0.weight", "learning_rate_factor": 4.0}, layer_decay=0.5)
    factors = {name: factor for name, (factor, _) in by_name(parameter_groups(network(), chosen)).items()}
    assert factors == {
        "0.weight": 1.0, "0.bias": 0.25, "1.weight": 0.5, "1.bias": 0.5, "3.weight": 1.0, "3.bias": 1.0,
    }  # fmt: skip


def test_what_is_frozen_gets_no_gradient_and_no_group_and_is_told() -> None:
    chosen, model = ruled({"match": "[01].*", "frozen": True}), network()
    freeze(model, chosen)
    groups = parameter_groups(model, chosen)
    assert list(by_name(groups)) == ["3.weight", "3.bias"]
    assert [parameter.requires_grad for parameter in model.parameters()] == [False] * 4 + [True] * 2
    assert describe_parameters(model, groups).splitlines() == [
        "decayed by 0.05: 1 parameters, 32 elements",
        "not decayed: 1 parameters, 2 elements",
        "frozen: 4 parameters, 120 elements",
    ]


def test_an_earlier_rule_saves_from_a_later_one() -> None:
    chosen, model = ruled({"match": "3.*"}, {"match": "*", "frozen": True}), network()
    freeze(model, chosen)
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == ["3.weight", "3.bias"]


def test_a_pattern_that_fits_nothing_is_an_error_with_names_that_are_close() -> None:
    with pytest.raises(TrainingError, match=r"match '3\.wieght' fits no parameter\. Parameters are called 3\.weight, "):
        freeze(network(), ruled({"match": "3.wieght", "learning_rate_factor": 2.0}))


def test_to_freeze_everything_is_an_error() -> None:
    with pytest.raises(TrainingError, match="nothing is left to train"):
        freeze(network(), ruled({"match": "*", "frozen": True}))


def test_a_frozen_rule_takes_no_rates() -> None:
    with pytest.raises(ValueError, match="leave the other keys out"):
        GroupRule(match="*", frozen=True, weight_decay=0.1)


def test_the_description_tells_the_share_of_the_learning_rate() -> None:
    chosen = ruled({"match": "3.weight", "learning_rate_factor": 0.1, "weight_decay": 0.0})
    assert describe_groups(parameter_groups(network(), chosen))[1] == (
        "learning rate x 0.1, not decayed: 1 parameters, 32 elements"
    )


def test_a_factor_of_the_learning_rate_is_a_factor_of_the_step() -> None:
    steps = []
    for factor in (1.0, 0.25):
        model = nn.ParameterDict({"w": nn.Parameter(torch.ones(2, 2))})
        chosen = ruled({"match": "w", "learning_rate_factor": factor}, weight_decay=0.0)
        optimizer = sgd(parameter_groups(model, chosen), chosen, 0.1)
        for group in optimizer.param_groups:
            group["lr"] = 0.5 * group["learning_rate_factor"]  # as trainer/step.py does
        model["w"].grad = torch.ones(2, 2)
        optimizer.step()
        steps.append(1 - model["w"].detach())
    torch.testing.assert_close(steps[1], 0.25 * steps[0])
