"""LARS against the paper's equations written out in numpy, against timm where the two agree, and against optax."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from timm.optim import Lars as TimmLars
from torch import nn

from megabatch.configs.optimizers import Lars as LarsSettings
from megabatch.configs.optimizers import Sgd as SgdSettings
from megabatch.trainer.optim.groups import parameter_groups
from megabatch.trainer.optim.lars import lars
from megabatch.trainer.optim.standard import sgd

CONSTANT = [0.3] * 10
ALL_ADAPTED = {"adapt_bias_and_norm": True, "decay_bias_and_norm": True}


def settings(**changes: Any) -> LarsSettings:
    return LarsSettings(**({"base_learning_rate": 1.0, "weight_decay": 0.01, "trust_coefficient": 0.02} | changes))


def build(network: nn.Module, **changes: Any) -> torch.optim.Optimizer:
    chosen = settings(**changes)
    return lars(parameter_groups(network, chosen), chosen, learning_rate=1.0)


def papers_equations(
    w: np.ndarray, gradients: list[np.ndarray], rates: list[float], chosen: LarsSettings, adapt: bool
) -> list[np.ndarray]:
    """Algorithm 1 for one layer, with the two variants that our settings add to it."""
    v, after = np.zeros_like(w), []
    decay = chosen.weight_decay if adapt else 0.0
    for g, lr in zip(gradients, rates, strict=True):
        d = g + decay * w
        w_norm, g_norm, d_norm = (np.sqrt((x**2).sum()) for x in (w, g, d))
        denominator = d_norm if chosen.denominator == "joint" else g_norm + decay * w_norm
        local_lr = chosen.trust_coefficient * w_norm / (denominator + chosen.epsilon) if w_norm * denominator else 1.0
        increment = lr * (local_lr if adapt else 1.0) * d
        v = chosen.momentum * v + increment
        w = w - (chosen.momentum * v + increment if chosen.nesterov else v)
        after.append(w)
    return after


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("denominator", ["separate", "joint"])
@pytest.mark.parametrize(("epsilon", "weight_decay"), [(0.0, 0.01), (0.5, 0.01), (0.0, 0.0)])
def test_lars_is_the_papers_equations_while_the_learning_rate_changes(
    network, walk, difference, initial, gradients, learning_rates, nesterov, denominator, epsilon, weight_decay
) -> None:
    changes = {"nesterov": nesterov, "denominator": denominator, "epsilon": epsilon, "weight_decay": weight_decay}
    parameters = network()
    ours = walk(build(parameters, **changes), parameters, learning_rates)
    by_layer = {
        name: papers_equations(w, [g[name] for g in gradients], learning_rates, settings(**changes), name != "bias")
        for name, w in initial.items()
    }
    theirs = [{name: after[step] for name, after in by_layer.items()} for step in range(len(learning_rates))]
    assert difference(ours, theirs) < 1e-13


def timm_walk(network, walk, dtype: torch.dtype, rates: list[float], **options: Any) -> list[dict[str, np.ndarray]]:
    parameters = network(dtype)
    del parameters["idle"]  # where a gradient is 0 the two differ: see the test below
    options = {"lr": 1.0, "momentum": 0.9, "weight_decay": 0.01, "trust_coeff": 0.02, "eps": 1e-3} | options
    return walk(TimmLars(parameters.values(), **options), parameters, rates)


def our_walk(network, walk, dtype: torch.dtype, rates: list[float], **changes: Any) -> list[dict[str, np.ndarray]]:
    parameters = network(dtype)
    del parameters["idle"]
    return walk(build(parameters, **({"epsilon": 1e-3} | ALL_ADAPTED | changes)), parameters, rates)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_lars_agrees_with_timm_while_the_learning_rate_is_constant(
    network, walk, difference, dtype, tolerance, nesterov
) -> None:
    ours = our_walk(network, walk, dtype, CONSTANT, nesterov=nesterov)
    assert difference(ours, timm_walk(network, walk, dtype, CONSTANT, nesterov=nesterov)) < tolerance


def test_lars_differs_from_timm_once_the_learning_rate_changes(network, walk, difference, learning_rates) -> None:
    ours = our_walk(network, walk, torch.float64, learning_rates)
    assert difference(ours, timm_walk(network, walk, torch.float64, learning_rates)) > 1e-3


@pytest.mark.parametrize("case", ["lars", "lars_nesterov", "lars_epsilon_without_decay", "lars_exempt_bias"])
def test_lars_joint_agrees_with_optax(golden, network, walk, difference, learning_rates, case) -> None:
    recorded = golden["cases"][case]
    exempt = {} if case == "lars_exempt_bias" else ALL_ADAPTED
    parameters = network()
    optimizer = build(parameters, **recorded["settings"], denominator="joint", **exempt)
    ours = walk(optimizer, parameters, learning_rates)
    theirs = [{name: np.asarray(value) for name, value in step.items()} for step in recorded["after_each_step"]]
    assert difference(ours, theirs) < 1e-13


def test_lars_separate_differs_from_optax(golden, network, walk, difference, learning_rates) -> None:
    parameters = network()
    optimizer = build(parameters, **golden["cases"]["lars"]["settings"], denominator="separate", **ALL_ADAPTED)
    theirs = [{n: np.asarray(v) for n, v in step.items()} for step in golden["cases"]["lars"]["after_each_step"]]
    assert difference(walk(optimizer, parameters, learning_rates), theirs) > 1e-4


@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_with_adaptation_off_equals_sgd(network, walk, difference, nesterov) -> None:
    walks = []
    for builder, chosen in (
        (lars, settings(nesterov=nesterov)),
        (sgd, SgdSettings(base_learning_rate=1.0, weight_decay=0.01, nesterov=nesterov)),
    ):
        parameters = network()
        groups = parameter_groups(parameters, chosen)
        for group in groups:
            group["adapt"] = False
        walks.append(walk(builder(groups, chosen, 1.0), parameters, CONSTANT))
    assert difference(*walks) < 1e-14


def test_lars_differs_from_sgd_at_zero_weight_decay(network, walk, difference) -> None:
    parameters, plain = network(), network()
    ours = walk(build(parameters, weight_decay=0.0), parameters, CONSTANT)
    chosen = SgdSettings(base_learning_rate=1.0)
    stochastic = walk(sgd(parameter_groups(plain, chosen), chosen, 1.0), plain, CONSTANT)
    assert difference(ours, stochastic) > 0.1
    assert all(np.allclose(a["bias"], b["bias"]) for a, b in zip(ours, stochastic, strict=True))  # exempt: it is SGD


def test_timm_is_sgd_at_zero_weight_decay_which_is_why_we_do_not_use_it(network, walk, difference) -> None:
    parameters = network()
    stochastic = walk(torch.optim.SGD(parameters.values(), lr=1.0, momentum=0.9), parameters, CONSTANT)
    parameters = network()
    theirs = walk(TimmLars(parameters.values(), momentum=0.9, weight_decay=0.0), parameters, CONSTANT)
    assert difference(theirs, stochastic) == 0.0


def test_a_zero_gradient_decays_at_the_papers_rate(network) -> None:
    """With g = 0 the paper's ratio is trust_coefficient / weight_decay, so that w shrinks by lr * trust_coefficient."""
    parameters = network()
    before = parameters["weight"].detach().clone()
    parameters["weight"].grad = torch.zeros_like(before)
    build(parameters).step()
    torch.testing.assert_close(parameters["weight"].detach(), before * (1 - 1.0 * 0.02), rtol=1e-14, atol=0)


def test_a_weight_at_zero_takes_its_first_step_at_the_whole_learning_rate(network) -> None:
    parameters = network()
    parameters["zero_weight"].grad = torch.full((2, 2), 0.25, dtype=torch.float64)
    build(parameters).step()
    assert torch.equal(parameters["zero_weight"].detach(), torch.full((2, 2), -0.25, dtype=torch.float64))
