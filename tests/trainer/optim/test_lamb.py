"""LAMB against the paper's equations written out in numpy, against timm, against optax, and against AdamW."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from timm.optim import Lamb as TimmLamb
from torch import nn

from megabatch.configs.optimizers import AdamW as AdamWSettings
from megabatch.configs.optimizers import Lamb as LambSettings
from megabatch.trainer.optim.groups import parameter_groups
from megabatch.trainer.optim.lamb import lamb
from megabatch.trainer.optim.standard import adamw

ALL_ADAPTED = {"adapt_bias_and_norm": True, "decay_bias_and_norm": True}


def settings(**changes: Any) -> LambSettings:
    return LambSettings(**({"base_learning_rate": 1.0, "weight_decay": 0.05, "beta2": 0.99} | changes))


def build(network: nn.Module, **changes: Any) -> torch.optim.Optimizer:
    chosen = settings(**changes)
    return lamb(parameter_groups(network, chosen), chosen, learning_rate=1.0)


def papers_equations(
    w: np.ndarray, gradients: list[np.ndarray], rates: list[float], chosen: LambSettings, adapt: bool
) -> list[np.ndarray]:
    """Algorithm 2 for one layer."""
    m, v, after = np.zeros_like(w), np.zeros_like(w), []
    beta1, beta2 = chosen.beta1, chosen.beta2
    for t, (g, lr) in enumerate(zip(gradients, rates, strict=True), start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat, v_hat = (m / (1 - beta1**t), v / (1 - beta2**t)) if chosen.bias_correction else (m, v)
        r = m_hat / (np.sqrt(v_hat) + chosen.epsilon) + (chosen.weight_decay if adapt else 0.0) * w
        w_norm, r_norm = np.sqrt((w**2).sum()), np.sqrt((r**2).sum())
        w = w - lr * (w_norm / r_norm if adapt and w_norm * r_norm else 1.0) * r
        after.append(w)
    return after


@pytest.mark.parametrize("bias_correction", [False, True])
@pytest.mark.parametrize(("epsilon", "weight_decay"), [(1e-6, 0.05), (0.1, 0.05), (1e-6, 0.0)])
def test_lamb_is_the_papers_equations_while_the_learning_rate_changes(
    network, walk, difference, initial, gradients, learning_rates, bias_correction, epsilon, weight_decay
) -> None:
    changes = {"bias_correction": bias_correction, "epsilon": epsilon, "weight_decay": weight_decay}
    parameters = network()
    ours = walk(build(parameters, **changes), parameters, learning_rates)
    by_layer = {
        name: papers_equations(w, [g[name] for g in gradients], learning_rates, settings(**changes), name != "bias")
        for name, w in initial.items()
    }
    theirs = [{name: after[step] for name, after in by_layer.items()} for step in range(len(learning_rates))]
    assert difference(ours, theirs) < 1e-13


@pytest.mark.parametrize("bias_correction", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_lamb_agrees_with_timm_without_its_gradient_clipping(
    network, walk, difference, learning_rates, dtype, tolerance, weight_decay, bias_correction
) -> None:
    rates = [rate / 10 for rate in learning_rates]  # steps of at most 5% of a weight keep float32's rounding below 1e-6
    parameters = network(dtype)
    changes = {"weight_decay": weight_decay, "bias_correction": bias_correction, "beta2": 0.999}
    ours = walk(build(parameters, **changes, **ALL_ADAPTED), parameters, rates)
    parameters = network(dtype)
    theirs = TimmLamb(
        parameters.values(),
        lr=1.0,
        weight_decay=weight_decay,
        bias_correction=bias_correction,
        max_grad_norm=None,
        always_adapt=True,
    )
    assert difference(ours, walk(theirs, parameters, rates)) < tolerance


@pytest.mark.parametrize("case", ["lamb", "lamb_without_decay", "lamb_exempt_bias"])
def test_lamb_agrees_with_optax(golden, network, walk, difference, learning_rates, case) -> None:
    recorded = golden["cases"][case]
    exempt = {} if case == "lamb_exempt_bias" else ALL_ADAPTED
    parameters = network()
    ours = walk(build(parameters, **recorded["settings"], **exempt), parameters, learning_rates)
    theirs = [{name: np.asarray(value) for name, value in step.items()} for step in recorded["after_each_step"]]
    assert difference(ours, theirs) < 1e-13


def test_lamb_with_adaptation_off_equals_adamw(network, walk, difference, learning_rates) -> None:
    walks = []
    for builder, chosen in (
        (lamb, settings(epsilon=1e-8)),
        (adamw, AdamWSettings(base_learning_rate=1.0, weight_decay=0.05, beta2=0.99)),
    ):
        parameters = network()
        groups = parameter_groups(parameters, chosen)
        for group in groups:
            group["adapt"] = False
        walks.append(walk(builder(groups, chosen, 1.0), parameters, learning_rates))
    assert difference(*walks) < 1e-13


def test_lamb_differs_from_adamw_at_zero_weight_decay(network, walk, difference, learning_rates) -> None:
    parameters, plain = network(), network()
    ours = walk(build(parameters, weight_decay=0.0, epsilon=1e-8), parameters, learning_rates)
    chosen = AdamWSettings(base_learning_rate=1.0, beta2=0.99)
    adam = walk(adamw(parameter_groups(plain, chosen), chosen, 1.0), plain, learning_rates)
    assert difference(ours, adam) > 0.1
    assert all(np.allclose(a["bias"], b["bias"]) for a, b in zip(ours, adam, strict=True))  # exempt: it is Adam


def test_the_step_counter_is_a_float32_scalar_on_the_host(network, walk, learning_rates) -> None:
    parameters = network()
    optimizer = build(parameters)
    walk(optimizer, parameters, learning_rates)
    step = optimizer.state[parameters["weight"]]["step"]
    assert (step.shape, step.dtype, step.device.type, step.item()) == ((), torch.float32, "cpu", 10.0)
