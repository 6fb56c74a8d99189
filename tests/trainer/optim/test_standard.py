"""torch's optimizers, built from our settings, against the papers' equations in numpy, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from megabatch.configs.optimizers import Adagrad, Adam, AdamW, OptimizerBase, RmsProp, Sgd
from megabatch.trainer.optim.groups import parameter_groups
from megabatch.trainer.optim.standard import _fused, adagrad, adam, adamw, rmsprop, sgd

BUILD: dict[type, Any] = {Sgd: sgd, Adagrad: adagrad, RmsProp: rmsprop, Adam: adam, AdamW: adamw}
Rule = Callable[[Any, np.ndarray, np.ndarray, float, int, dict[str, Any]], np.ndarray]


def sgd_rule(s: Sgd, w: np.ndarray, g: np.ndarray, lr: float, t: int, state: dict[str, Any]) -> np.ndarray:
    d = g + s.weight_decay * w
    state["v"] = s.momentum * state.get("v", 0) + d
    return w - lr * (d + s.momentum * state["v"] if s.nesterov else state["v"])


def adagrad_rule(s: Adagrad, w: np.ndarray, g: np.ndarray, lr: float, t: int, state: dict[str, Any]) -> np.ndarray:
    d = g + s.weight_decay * w
    state["s"] = state.get("s", s.initial_accumulator) + d**2
    return w - lr * d / (np.sqrt(state["s"]) + s.epsilon)


def rmsprop_rule(s: RmsProp, w: np.ndarray, g: np.ndarray, lr: float, t: int, state: dict[str, Any]) -> np.ndarray:
    d = g + s.weight_decay * w
    state["s"] = s.smoothing * state.get("s", 0) + (1 - s.smoothing) * d**2
    state["mean"] = s.smoothing * state.get("mean", 0) + (1 - s.smoothing) * d
    square = state["s"] - state["mean"] ** 2 if s.centered else state["s"]
    state["b"] = s.momentum * state.get("b", 0) + d / (np.sqrt(square) + s.epsilon)
    return w - lr * state["b"]


def adam_rule(s: Any, w: np.ndarray, g: np.ndarray, lr: float, t: int, state: dict[str, Any]) -> np.ndarray:
    decoupled = isinstance(s, AdamW)
    d = g if decoupled else g + s.weight_decay * w
    state["m"] = s.beta1 * state.get("m", 0) + (1 - s.beta1) * d
    state["v"] = s.beta2 * state.get("v", 0) + (1 - s.beta2) * d**2
    state["most"] = np.maximum(state.get("most", 0), state["v"])
    v = state["most"] if getattr(s, "amsgrad", False) else state["v"]
    update = (state["m"] / (1 - s.beta1**t)) / (np.sqrt(v / (1 - s.beta2**t)) + s.epsilon)
    return w - lr * (update + (s.weight_decay * w if decoupled else 0))


def settings(kind: type[OptimizerBase], **changes: Any) -> OptimizerBase:
    return kind(**{"base_learning_rate": 1.0, "weight_decay": 0.05, **changes})


CASES: list[tuple[OptimizerBase, Rule]] = [
    (settings(Sgd), sgd_rule),
    (settings(Sgd, momentum=0.0), sgd_rule),
    (settings(Sgd, nesterov=True), sgd_rule),
    (settings(Adagrad), adagrad_rule),
    (settings(Adagrad, initial_accumulator=0.1, epsilon=1e-3), adagrad_rule),
    (settings(RmsProp), rmsprop_rule),
    (settings(RmsProp, momentum=0.9, smoothing=0.9), rmsprop_rule),
    (settings(RmsProp, centered=True, epsilon=1e-3), rmsprop_rule),
    (settings(Adam), adam_rule),
    (settings(Adam, amsgrad=True, beta2=0.9), adam_rule),
    (settings(AdamW, epsilon=1e-3), adam_rule),
]


@pytest.mark.parametrize(("chosen", "rule"), CASES, ids=lambda value: getattr(value, "name", ""))
def test_ten_steps_are_the_papers_equations(
    network, walk, difference, initial, gradients, learning_rates, chosen, rule
) -> None:
    everything_decayed = chosen.model_copy(update={"decay_bias_and_norm": True})
    parameters = network()
    built = BUILD[type(chosen)](parameter_groups(parameters, everything_decayed), everything_decayed, 1.0)
    ours = walk(built, parameters, learning_rates)
    theirs, now = [], dict(initial)
    states: dict[str, dict[str, Any]] = {name: {} for name in initial}
    for t, (gradient, lr) in enumerate(zip(gradients, learning_rates, strict=True), start=1):
        now = {name: rule(chosen, w, gradient[name], lr, t, states[name]) for name, w in now.items()}
        theirs.append(now)
    assert difference(ours, theirs) < 1e-11


def test_fused_kernels_are_asked_for_on_cuda_only() -> None:
    on_cpu, on_meta = nn.Linear(2, 2), nn.Linear(2, 2, device="meta")
    assert _fused([{"params": list(on_cpu.named_parameters())}]) == {}
    assert _fused([{"params": list(on_meta.named_parameters())}]) == {}
    assert _fused([{"params": [("w", Cuda())]}]) == {"fused": True}
    assert _fused([{"params": [("w", Cuda())]}, {"params": list(on_cpu.named_parameters())}]) == {}


class Cuda:
    """As much of a parameter on a GPU as there is without one."""

    device = torch.device("cuda")
