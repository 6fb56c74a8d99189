"""Optimizers by name, groups, layer decay and frozen parts in real runs: as told, and exact under kill -9 and resume."""

from __future__ import annotations

import pytest

from megabatch.configs.metrics import read_metrics
from megabatch.trainer import checkpoint
from support.runs import Workplace, finish, kill_after_step, losses

pytestmark = pytest.mark.processes
# adan of timm counts its steps in its groups
GROUPS = "layer_decay: 0.7, groups: [{match: '9.*', learning_rate_factor: 3}, {match: '0.*', frozen: true}]"
STEPS = 45


def test_a_killed_run_ends_with_the_same_bits_and_frozen_parts_stay(workplace: Workplace) -> None:
    overrides = (
        f"optimizer={{name: timm/adan, base_learning_rate: 0.01, scaling: none, {GROUPS}}}",
        "epochs=15", "checkpoint.every_epochs=15", "checkpoint.every_steps=4", "checkpoint.keep_last=20",
    )  # fmt: skip
    alone = workplace.train("adan-alone", 1, *overrides)
    killed = workplace.job("adan-killed", 1, *overrides)
    kill_after_step(workplace.start(killed), killed, 10, victim=0)
    finish(workplace.start(killed), killed)
    assert losses(killed) == losses(alone)
    first, last = (checkpoint.load(alone.checkpoint(step)) for step in (4, STEPS))
    resumed = checkpoint.load(killed.checkpoint(STEPS))
    for kept, other in ((last.network, resumed.network), (last.optimizer, resumed.optimizer)):
        assert {path: tensor.numpy().tobytes() for path, tensor in kept.items()} == {
            path: tensor.numpy().tobytes() for path, tensor in other.items()
        }
    assert last.state["optimizer"] == resumed.state["optimizer"]
    moved = {name for name, tensor in last.network.items() if not tensor.equal(first.network[name])}
    assert {"0.weight", "0.bias"}.isdisjoint(moved)
    assert {"3.weight", "9.weight", "9.bias"} <= moved
    text = alone.metrics.read_text()
    assert "learning rate x 3, not decayed" in text
    assert "frozen: 2 parameters, 168 elements" in text


def test_trust_ratios_are_logged_every_so_many_steps(workplace: Workplace) -> None:
    chosen = ("optimizer={name: lars, base_learning_rate: 5.0, scaling: none}", "epochs=3")
    logged = workplace.train("lars-logged", 1, *chosen, "tracking.trust_ratios_every_steps=4")
    lines = read_metrics(logged.metrics, "trust_ratios")
    assert [line["step"] for line in lines] == [4, 8]
    assert all(list(line["ratios"]) == ["0.weight", "3.weight", "9.weight"] for line in lines)
    assert all(0 < ratio < 1 for line in lines for ratio in line["ratios"].values())


def test_an_option_that_does_not_exist_is_told_before_a_launch(workplace: Workplace) -> None:
    done = workplace.megabatch(
        "plan", "recipe.yaml", "--model", "optimizer={name: timm/lion, base_learning_rate: 0.1, options: {beta: 1}}"
    )
    assert done.returncode == 2, done.stderr
    assert "optimizer.options.beta of timm/lion: unknown. Did you mean betas?" in done.stderr
