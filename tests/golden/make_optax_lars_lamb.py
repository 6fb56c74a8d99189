"""Writes optax_lars_lamb.json: what optax.lars and optax.lamb make of fixed gradients, after each of ten steps.

Needs an environment of its own, megabatch depends on neither package:
    python -m venv optax && optax/bin/pip install optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
    optax/bin/python tests/golden/make_optax_lars_lamb.py

optax.lars applies the learning rate before the momentum, as the paper and our Lars do, so that a changing learning
rate gives the same numbers; its denominator is the one we call `joint`. Its two masks are what our groups are.
optax.lamb has a mask for the decay and none for the trust ratio; for `lamb_exempt_bias` its four transformations are
chained here by hand with one.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

STEPS = 10
SHAPES = {"weight": (4, 3), "kernel": (2, 1, 2, 2), "bias": (3,), "zero_weight": (2, 2), "idle": (2, 3)}
NOT_BIAS = {name: name != "bias" for name in SHAPES}
LARS = {"momentum": 0.9, "nesterov": False, "trust_coefficient": 0.02, "epsilon": 0.0, "weight_decay": 0.01}
LAMB = {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-6, "weight_decay": 0.05}
CASES: dict[str, dict[str, Any]] = {
    "lars": LARS,
    "lars_nesterov": LARS | {"nesterov": True},
    "lars_epsilon_without_decay": LARS | {"epsilon": 0.5, "weight_decay": 0.0},
    "lars_exempt_bias": LARS,
    "lamb": LAMB,
    "lamb_without_decay": LAMB | {"weight_decay": 0.0},
    "lamb_exempt_bias": LAMB,
}


def problem() -> dict[str, Any]:
    """Return start values, gradients and learning rates; a weight that starts at 0, one whose gradient starts at 0."""
    generator = np.random.default_rng(2017)

    def normal(name: str) -> list[Any]:
        return np.round(generator.standard_normal(SHAPES[name]), 6).tolist()

    parameters = {name: normal(name) for name in SHAPES}
    parameters["zero_weight"] = np.zeros(SHAPES["zero_weight"]).tolist()
    gradients = [{name: normal(name) for name in SHAPES} for _ in range(STEPS)]
    for step in range(3):
        gradients[step]["idle"] = np.zeros(SHAPES["idle"]).tolist()
    learning_rates = [
        round(0.5 * (step + 1) / 4, 6) if step < 4 else round(0.5 * 0.8 ** (step - 3), 6) for step in range(STEPS)
    ]
    return {"parameters": parameters, "gradients": gradients, "learning_rates": learning_rates}


def transformation(case: str, settings: dict[str, Any], learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """Return optax's own optimizer for the settings, with the bias masked out where the case says so."""
    decay, exempt = settings["weight_decay"], case.endswith("exempt_bias")
    mask = NOT_BIAS if exempt else dict.fromkeys(SHAPES, True)
    if case.startswith("lars"):
        return optax.lars(
            learning_rate,
            weight_decay=decay,
            weight_decay_mask=mask,
            trust_coefficient=settings["trust_coefficient"],
            eps=settings["epsilon"],
            trust_ratio_mask=mask,
            momentum=settings["momentum"],
            nesterov=settings["nesterov"],
        )
    moments = {"b1": settings["beta1"], "b2": settings["beta2"], "eps": settings["epsilon"]}
    if not exempt:
        return optax.lamb(learning_rate, weight_decay=decay, **moments)
    return optax.chain(
        optax.scale_by_adam(**moments),
        optax.add_decayed_weights(decay, mask=mask),
        optax.masked(optax.scale_by_trust_ratio(), mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def trajectory(case: str, settings: dict[str, Any], given: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parameters after each step."""
    learning_rates = jnp.asarray(given["learning_rates"])
    optimizer = transformation(case, settings, lambda count: learning_rates[count])
    parameters = {name: jnp.asarray(value) for name, value in given["parameters"].items()}
    state, after = optimizer.init(parameters), []
    for step in given["gradients"]:
        gradients = {name: jnp.asarray(value) for name, value in step.items()}
        updates, state = optimizer.update(gradients, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        assert all(value.dtype == jnp.float64 for value in parameters.values())
        after.append({name: np.asarray(value).tolist() for name, value in parameters.items()})
    return after


def main() -> None:
    """Write the JSON beside this file, one line per case."""
    jax.config.update("jax_enable_x64", True)
    given = problem()
    made_with = {
        "optax": optax.__version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "x64": True,
        "command": "python tests/golden/make_optax_lars_lamb.py",
    }
    lines = [f'"{key}": {json.dumps(value)}' for key, value in ({"made_with": made_with} | given).items()]
    cases = [
        f'  "{case}": {json.dumps({"settings": settings, "after_each_step": trajectory(case, settings, given)})}'
        for case, settings in CASES.items()
    ]
    text = "{\n" + ",\n".join([*lines, '"cases": {\n' + ",\n".join(cases) + "\n}"]) + "\n}\n"
    json.loads(text)
    Path(__file__).with_name("optax_lars_lamb.json").write_text(text)


if __name__ == "__main__":
    main()
