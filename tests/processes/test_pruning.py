"""Pruned trainings with real ranks: any number of them, killed and gone on with, evaluated, exported, pruned by command."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from megabatch.configs.job import Job
from megabatch.configs.load import read_job
from megabatch.configs.metrics import read_metrics
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.cli import app
from megabatch.launcher.study import sensitivity
from megabatch.trainer import checkpoint, loop
from megabatch.trainer.pruning.sensitivity import scan
from support.runs import Workplace, finish, kill_after_step, losses
from support.training import training

pytestmark = pytest.mark.processes
SPLITS = ("data.validation_split=validation", "data.test_split=test")
CUBIC = (
    "pruning={name: magnitude, sparsity: 0.7, schedule: {name: cubic, begin: 2 steps, end: 20 steps, every_steps: 3}}"
)
# "unhurried", so that there is time to kill it
MASKED = ("epochs=10", "checkpoint.every_steps=4", "averaging={name: ema, decay: 0.9}", CUBIC, "precision=fp64",
          "model.name=network:unhurried")  # fmt: skip
STEPS = 30


def snapshot(run_dir: RunDir) -> checkpoint.Snapshot:
    return checkpoint.load(run_dir.checkpoint(STEPS))


def bits(found: checkpoint.Snapshot) -> dict[str, bytes]:
    return {f"{g}/{n}": t.numpy().tobytes() for g, tensors in found.groups().items() for n, t in tensors.items()}


@pytest.fixture(scope="module")
def alone(workplace: Workplace) -> RunDir:
    return workplace.train("masked-alone", 1, *MASKED)


@pytest.mark.parametrize("engine", ["ddp", "{name: fsdp, min_parameters: 100}"])
def test_two_ranks_prune_the_same_weights_as_one(workplace: Workplace, alone: RunDir, engine: str) -> None:
    together = workplace.train(f"masked-{engine[1:5]}", 2, *MASKED, f"engine={engine}")
    assert losses(together) == pytest.approx(losses(alone), rel=1e-9)
    one, two = snapshot(alone), snapshot(together)
    assert set(one.masks) == {"0.weight", "3.weight", "9.weight"}
    assert all(torch.equal(mask, two.masks[name]) for name, mask in one.masks.items())
    total = sum(mask.numel() for mask in one.masks.values())
    assert sum(int((~mask).sum()) for mask in one.masks.values()) == round(0.7 * total)
    for found in (one, two):
        for name, mask in found.masks.items():
            momentum = found.optimizer[f"{name}/momentum_buffer"]
            assert not any(tensor[~mask].any() for tensor in (found.network[name], found.averaged[name], momentum))
            assert momentum.any()


def test_a_run_killed_while_masks_grow_ends_with_the_same_bits(workplace: Workplace, alone: RunDir) -> None:
    killed = workplace.job("masked-killed", 1, *MASKED)
    kill_after_step(workplace.start(killed), killed, 10, victim=0)
    finish(workplace.start(killed), killed)
    assert losses(killed) == losses(alone)
    assert bits(snapshot(killed)) == bits(snapshot(alone))


@pytest.fixture(scope="module")
def dense(workplace: Workplace) -> RunDir:
    return workplace.train("dense", 2, *SPLITS, "epochs=6")


def test_an_evaluation_counts_only_when_the_network_is_as_sparse_as_it_gets(
    workplace: Workplace, dense: RunDir
) -> None:
    """Nothing is learned here: the network is only taken apart, so the first evaluation is the best by itself."""
    still = (*SPLITS, "epochs=4", "optimizer.base_learning_rate=1e-20", "optimizer.weight_decay=0", "model.batch_norm=frozen",
             "model.pretrained=dense", "pruning={name: magnitude, sparsity: 0.99, schedule: {name: cubic, end: 4, every_steps: 3}}")  # fmt: skip
    with training(workplace, "taken-apart", *still) as parts:
        loop.train(parts)
        values = {line["step"]: line["top1"] for line in read_metrics(parts.run_dir.metrics, "evaluation")}
        assert max(values.values()) == values[3] > values[12]
        assert (parts.state.best_step, parts.state.best_value) == (12, values[12])


@pytest.fixture(scope="module")
def pruned(workplace: Workplace, dense: RunDir) -> tuple[RunDir, str]:
    """A run that the command made, and what it printed."""
    done = workplace.megabatch(
        "prune", "dense", "--epochs", "2", "--run-dir", "small", "pruning.multiple_of=1", "checkpoint.every_steps=2",
        "schedule.warmup=0", "cluster.processes_per_node=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return RunDir(workplace.folder / "small"), done.stdout


def test_the_command_shows_its_recipe_trains_a_smaller_network_and_compares(
    workplace: Workplace, dense: RunDir, pruned: tuple[RunDir, str]
) -> None:
    run_dir, printed = pruned
    recipe = run_dir.recipe.read_text()
    assert printed.index(recipe) < printed.index("plan: ")
    assert "name: channels\n  flops: 0.5\n" in recipe
    settings = read_job(run_dir.job).recipe
    assert (settings.name, settings.epochs, settings.seed) == ("tiny-pruned", 2, 1)
    found = json.loads((run_dir.root / "pruning.json").read_text())
    assert found["pruned"]["flops"] <= 0.5 * found["dense"]["flops"]
    assert found["pruned"]["test"] == json.loads(run_dir.result.read_text())["test"]["top1"]
    small, whole = (checkpoint.load_network(checkpoint.chosen(run, "last")) for run in (run_dir, dense))
    assert small["0.weight"].shape[0] == small["1.weight"].shape[0] == small["3.weight"].shape[1] < 6
    assert whole["0.weight"].shape[0] == 6
    assert "x 0." in printed.rpartition("operations for an image")[2]


def test_a_small_network_is_resumed_evaluated_exported_and_trained_on(
    workplace: Workplace, pruned: tuple[RunDir, str]
) -> None:
    run_dir, _ = pruned
    shapes = {
        name: tensor.shape for name, tensor in checkpoint.load_network(checkpoint.chosen(run_dir, "last")).items()
    }
    with training(workplace, "small") as parts:
        parts.step_parts.engine.load_network(checkpoint.load_network(checkpoint.chosen(run_dir, "best")))
        assert parts.evaluate_split("test").value("top1") == json.loads(run_dir.result.read_text())["test"]["top1"]
    done = workplace.megabatch(
        "export", "small", "--format", "safetensors", "--checkpoint", "last", "--output", "w.safetensors"
    )
    assert done.returncode == 0, done.stderr
    exported = load_file(workplace.folder / "w.safetensors")
    assert {name: tensor.shape for name, tensor in exported.items()} == shapes
    overrides = (*SPLITS, "epochs=2", "checkpoint.every_steps=2", "checkpoint.keep_last=9", "schedule.warmup=0")
    again = workplace.job("again", 2, *overrides, "model.pretrained=small", "pruning=inherited")
    shutil.copyfile(run_dir.pruning_plan, again.pruning_plan)
    workplace.train("again", 2)
    last = checkpoint.load(again.checkpoint(6))
    shutil.rmtree(again.checkpoint(6))
    workplace.train("again", 2)
    assert bits(checkpoint.load(again.checkpoint(6))) == bits(last)
    assert {name: tensor.shape for name, tensor in last.network.items()} == shapes


def test_a_scan_tells_what_each_layer_alone_can_spare(
    workplace: Workplace, dense: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command with the ranks in this process."""
    asked = []

    def run_study(job: Job, run_dir: RunDir, study: str, settings: dict[str, Any], say: object) -> dict[str, Any]:
        asked.append((study, settings["keep"]))
        with training(workplace, "dense") as parts:
            return scan(parts, **settings)

    monkeypatch.chdir(workplace.folder)
    monkeypatch.setattr(sensitivity, "run_study", run_study)
    for name, layers in (("magnitude", ["0", "3"]), ("channels", ["3", "0"])):
        done = CliRunner().invoke(app, ["prune", "dense", "--sensitivity", "--name", name, "--keep", "9"])
        assert done.exit_code == 0, done.output
        found = json.loads((dense.root / f"sensitivity-{name}.json").read_text())
        assert sorted(found["layers"]) == sorted(layers)
        assert found["base"] == json.loads(dense.result.read_text())["best_value"]
        assert all(len(values) == 4 for values in found["layers"].values())
        assert f"{found['layers']['0'][-1]:.4f}" in done.output
        assert (dense.root / f"sensitivity-{name}.html").exists()
    assert asked == [("sensitivity", ["9"])] * 2
