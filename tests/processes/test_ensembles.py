"""Ensembles and fused networks with real ranks: any number of them, evaluated, exported, taught from, resumed, by command."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from megabatch.configs.job import Job
from megabatch.configs.load import read_job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.cli import app
from megabatch.launcher.prepare import prepare
from megabatch.launcher.study import ensemble as study
from megabatch.launcher.study import further
from megabatch.launcher.study.ensemble import Settings
from megabatch.trainer import checkpoint, loop, sizes
from megabatch.trainer.__main__ import train as train_and_test
from megabatch.trainer.build import Parts
from megabatch.trainer.ensemble import combine
from megabatch.trainer.export.__main__ import export
from megabatch.trainer.models.ensemble import Ensemble
from support.runs import Workplace, losses
from support.targets import Drawn, numbers_and_labels, target_dataset
from support.training import training

pytestmark = pytest.mark.processes
SPLITS = ("data.validation_split=validation", "data.test_split=test")
SCALED = "data.normalize={name: fixed, mean: [0.5, 0.4, 0.3], std: [0.2, 0.3, 0.4]}"
MADE = {"a": ("seed=1",), "b": ("seed=2", SCALED, "model.options={norm: false}"), "c": ("seed=3", "averaging=ema")}


@pytest.fixture(scope="module", autouse=True)
def members(workplace: Workplace) -> dict[str, RunDir]:
    """Three runs: another network, other pixels, averaged weights."""
    for name, settings in MADE.items():
        with training(workplace, name, *SPLITS, *settings, "epochs=6", "optimizer.base_learning_rate=0.2") as parts:
            loop.train(parts)
            parts.saver.wait()
            if parts.world.is_main:
                result = {"test": parts.evaluate_split("test").to_json(), **parts.state.to_json()}
                parts.run_dir.result.write_text(json.dumps(result))
    return {name: RunDir(workplace.folder / name) for name in MADE}


@contextmanager
def loaded(workplace: Workplace, name: str) -> Iterator[Parts]:
    """Build a run with the weights of its best checkpoint, without an optimizer's state: an ensemble has none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "restore", lambda parts: None)
        with training(workplace, name) as parts:
            parts.step_parts.engine.load_network(checkpoint.load_network(checkpoint.chosen(parts.run_dir, "best")))
            if parts.step_parts.average is not None:
                parts.step_parts.average.forget()
            parts.step_parts.engine.network.eval()
            yield parts


def made_here(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, runs: Iterable[str], output: str, settings: Settings
) -> dict[str, Any]:
    """Make an ensemble with the one rank in this process."""

    def run_study(job: Job, run_dir: RunDir, name: str, request: dict[str, Any], say: object) -> dict[str, Any]:
        study.write_job(job, run_dir.job)
        with training(workplace, run_dir.root.name) as parts:
            found = combine(parts, **request)
        run_dir.study_result.touch()
        (run_dir.root / "study.json").touch()
        return found

    monkeypatch.chdir(workplace.folder)
    monkeypatch.setattr(study, "run_study", run_study)
    monkeypatch.setattr(sizes, "_SECONDS", 0.0)
    return study.combine(runs, workplace.folder / output, settings)


def test_the_ensemble_is_the_mean_of_what_the_runs_predict_each_by_itself(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, members: dict[str, RunDir]
) -> None:
    found = made_here(workplace, monkeypatch, MADE, "mean", Settings(weights=(2.0, 1.0, 1.0)))
    pixels = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    with loaded(workplace, "mean") as parts, torch.no_grad():
        whole = parts.step_parts.engine.network(parts.step_parts.normalize(pixels)).softmax(dim=1)
    expected = torch.zeros_like(whole)
    for name, share in zip(MADE, (0.5, 0.25, 0.25), strict=True):
        with loaded(workplace, name) as parts, torch.no_grad():
            expected += share * parts.step_parts.engine.network(parts.step_parts.normalize(pixels)).softmax(dim=1)
            evaluated = parts.evaluate_split("validation")
        number = list(MADE).index(name)
        assert found["validation"]["members"][number]["top1"] == evaluated.value("top1")
        assert found["validation"]["members"][number]["loss"] == pytest.approx(evaluated.loss, rel=1e-6)
    torch.testing.assert_close(whole, expected)


@pytest.fixture(scope="module")
def by_command(workplace: Workplace) -> str:
    """The command with three ranks; returns what it printed."""
    (workplace.folder / "three.yaml").write_text("base: laptop\nprocesses_per_node: 3\n")
    arguments = (*MADE, "--weights", "fitted", "--output", "three", "--cluster", "three.yaml")
    done = workplace.megabatch("ensemble", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_three_ranks_find_the_same_as_one(
    workplace: Workplace, by_command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = made_here(workplace, monkeypatch, MADE, "one", Settings(weights="fitted"))
    together = json.loads((workplace.folder / "three" / "ensemble.json").read_text())
    for found in (alone, together):
        found.pop("sizes")
    assert together == alone
    assert sum(alone["weights"]) == pytest.approx(1)
    mean = made_here(workplace, monkeypatch, MADE, "uniform", Settings())
    assert alone["validation"]["ensemble"]["loss"] < mean["validation"]["ensemble"]["loss"]
    networks = [
        checkpoint.load_network(checkpoint.chosen(RunDir(workplace.folder / n), "best")) for n in ("one", "three")
    ]
    assert set(networks[0]) == set(networks[1])
    assert all(torch.equal(tensor, networks[1][name]) for name, tensor in networks[0].items())


def test_the_result_is_a_finished_run_that_is_evaluated_exported_and_teaches(
    workplace: Workplace, by_command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = RunDir(workplace.folder / "three")
    found, result = json.loads((run_dir.root / "ensemble.json").read_text()), json.loads(run_dir.result.read_text())
    assert result["test"]["top1"] == found["test"]["ensemble"]["top1"]
    with loaded(workplace, "three") as parts:
        assert isinstance(parts.step_parts.engine.network, Ensemble)
        assert parts.evaluate_split("test").loss == pytest.approx(result["test"]["loss"], rel=1e-6)
    monkeypatch.chdir(workplace.folder)
    monkeypatch.syspath_prepend(str(workplace.folder))
    written = export(run_dir, "torchscript", "best", "averaged", None)
    assert written["difference"] <= 1e-6
    with training(workplace, "pupil", "distillation.teachers=[three]", "epochs=2") as parts:
        loop.train(parts)
    state = checkpoint.read_state(checkpoint.chosen(run_dir, "best"))
    assert state["fingerprint"] == read_job(run_dir.job).fingerprint()
    kept = [member for member in found["members"] if member["weight"]]
    assert len(read_job(run_dir.job).recipe.model.options["members"]) == len(kept)
    assert "its best member there" in by_command
    assert f"{100 * found['test']['gain']['gain']:+.2f} points of top-1" in by_command


OTHER_TARGETS = {
    "numbers": ("loss={name: huber, delta: 0.5}",
                "data.target={name: numbers, keys: [brightness, redness], mean: [0.4, 0.4], std: [0.1, 0.2]}"),
    "labels": ("loss=binary_cross_entropy", "data.target={name: labels, key: corners}"),
}  # fmt: skip


def with_a_broken_sample(drawn: Drawn, number: int) -> dict[str, bytes]:
    return {"json": b"{"} if number == 3 else numbers_and_labels(drawn, number)


@pytest.mark.parametrize("kind", OTHER_TARGETS)
def test_numbers_and_several_labels_are_averaged_and_weighed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Two samples cannot be read. The fitted loss is the one that evaluations show, so no member is better in it."""
    target_dataset(tmp_path, {"train": 44, "validation": 35}, with_a_broken_sample)
    place = Workplace(tmp_path)
    place.write()
    common = (*OTHER_TARGETS[kind], "data.validation_split=validation", "regularization.label_smoothing=0", "epochs=6",
              "data.on_error={name: skip, max_samples: 3}", "optimizer.base_learning_rate=0.1")  # fmt: skip
    alone = []
    for seed in (1, 2):
        with training(place, f"run-{seed}", *common, f"seed={seed}", "checkpoint.keep_last=9") as parts:
            loop.train(parts)
        with loaded(place, f"run-{seed}") as parts:
            alone.append(parts.evaluate_split("validation"))
    runs = ["run-1", "run-2"]
    choices: tuple[study.Chosen, ...] = ("uniform", "fitted", "greedy")
    chosen = {
        weights: made_here(place, monkeypatch, runs, weights, Settings(weights=weights))["validation"]
        for weights in choices
    }
    for found in chosen.values():
        for member, own in zip(found["members"], alone, strict=True):
            assert {**member, "split": 0} == pytest.approx({**own.to_json(), "split": 0}, rel=1e-6)
            assert member["skipped_samples"] == 1
        assert found["gain"]["metric"] == "loss"
        best = found["members"][found["best_member"]]["loss"]
        assert found["gain"]["gain"] == pytest.approx(best - found["ensemble"]["loss"], abs=1e-6)
    losses = {weights: found["ensemble"]["loss"] for weights, found in chosen.items()}
    assert losses["fitted"] <= min(losses["uniform"], losses["greedy"], *(one.loss for one in alone)) + 1e-5


FUSED = ("epochs=8", "precision=fp64", "checkpoint={every_steps: 4, keep_last: 9}", "schedule.warmup=0",
         "optimizer.base_learning_rate=0.1",
         "model={name: 'megabatch.trainer.models.ensemble:ensemble', pretrained: a-c, options: {share_until: '2', learn_weights: true, "
         "members: [{name: 'network:small'}, {name: 'network:small'}]}}")  # fmt: skip
STEPS = 24


@pytest.fixture(scope="module")
def fused(workplace: Workplace) -> RunDir:
    """A fused network that one rank trains on, from an ensemble of two equal architectures."""
    with pytest.MonkeyPatch.context() as patch:
        made_here(workplace, patch, ["a", "c"], "a-c", Settings())
    with training(workplace, "fused", *FUSED) as parts:
        loop.train(parts)
    return parts.run_dir


def bits(run_dir: RunDir) -> dict[str, bytes]:
    groups = checkpoint.load(run_dir.checkpoint(STEPS)).groups()
    return {f"{group}/{name}": t.numpy().tobytes() for group, tensors in groups.items() for name, t in tensors.items()}


@pytest.mark.parametrize(("ranks", "engine"), [(2, "{name: fsdp, min_parameters: 100}"), (3, "ddp")])
def test_a_fused_network_is_trained_alike_by_any_ranks(
    workplace: Workplace, fused: RunDir, ranks: int, engine: str
) -> None:
    together = workplace.train(f"fused-{ranks}", ranks, *FUSED, f"engine={engine}")
    assert losses(together) == pytest.approx(losses(fused), rel=1e-9)
    one, several = (checkpoint.load(run.checkpoint(STEPS)).network for run in (fused, together))
    assert all(torch.allclose(tensor, several[name], rtol=1e-8, atol=1e-10) for name, tensor in one.items())


def test_a_fused_run_begins_with_the_ensemble_and_ends_with_the_same_bits_when_resumed(
    workplace: Workplace, fused: RunDir
) -> None:
    began = json.loads(fused.pretrained.read_text())
    names = set(checkpoint.load(fused.checkpoint(STEPS)).network)
    assert set(began["loaded"]) == names - {"log_weights"}
    assert began["missing"] == ["log_weights"]
    assert all(name.startswith("members.1.") and name.split(".")[2] in "01" for name in began["unused"])
    resumed = workplace.job("fused-resumed", 1, *FUSED)
    shutil.copytree(fused.checkpoint(8), resumed.checkpoint(8))
    with training(workplace, "fused-resumed") as parts:
        assert parts.state.step == 8
        loop.train(parts)
    assert bits(resumed) == bits(fused)


def test_the_command_shows_its_recipe_trains_and_compares(
    workplace: Workplace, fused: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command with the rank in this process."""

    def train(made: RunDir, cluster: str, overrides: list[str]) -> int:
        assert (cluster, overrides) == ("laptop", ["cluster.processes_per_node=1"])
        study.write_job(prepare(str(made.recipe), cluster, overrides).job, made.job)
        with training(workplace, made.root.name) as parts:
            train_and_test(parts)
        return 0

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        found = sizes.compare([RunDir(Path(folder)) for folder in command[3:]])
        return subprocess.CompletedProcess(command, 0, json.dumps(found), "")

    monkeypatch.chdir(workplace.folder)
    monkeypatch.syspath_prepend(str(workplace.folder))
    monkeypatch.setattr(further, "train", train)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sizes, "_SECONDS", 0.0)
    arguments = (
        "a-c",
        "--share-until",
        "2",
        "--epochs",
        "1",
        "--run-dir",
        "by-command",
        "cluster.processes_per_node=1",
        "--json",
    )
    done = CliRunner().invoke(app, ["fuse", *arguments])
    assert done.exit_code == 0, done.output
    run_dir = RunDir(workplace.folder / "by-command")
    assert run_dir.recipe.read_text() in done.output
    found = json.loads((run_dir.root / "fusion.json").read_text())
    assert json.loads(done.stdout)["comparison"] == found
    assert found["fused"]["parameters"] < found["ensemble"]["parameters"]
    assert found["fused"]["test"] == json.loads(run_dir.result.read_text())["test"]["top1"]
    assert f"{found['ensemble']['test']:.4f}" in done.output
    recipe = read_job(run_dir.job).recipe
    assert recipe.model.options["share_until"] == "2"
    assert recipe.model.pretrained is not None
    assert (recipe.epochs, recipe.seed, recipe.name) == (1, 2, "tiny-fused")
