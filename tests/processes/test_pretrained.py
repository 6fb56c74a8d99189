"""A training that starts from the weights of another run: the plan, the ranks, and what happens when the source goes."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
import torch
from safetensors.torch import save_file

from megabatch.configs.load import read_job
from megabatch.configs.metrics import read_metrics
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.command import rank_command
from megabatch.trainer import checkpoint
from support.runs import Workplace, environment, kill_after_step, losses

pytestmark = pytest.mark.processes
SPLITS = ("data.validation_split=validation", "data.test_split=test")
# So small a step that no weight moves, and statistics that stay: the network is evaluated as it came.
STILL = ("model.batch_norm=frozen", "epochs=1", "optimizer.base_learning_rate=1e-20", "optimizer.weight_decay=0")
LONG = ("epochs=40", "checkpoint.every_steps=4", "model.pretrained=copied.safetensors")


def alone(workplace: Workplace, run_dir: RunDir, code: int = 0) -> RunDir:
    """Run a job's only rank to its end, without torchrun."""
    done = subprocess.run(
        rank_command(run_dir.job), cwd=workplace.folder, env=environment(), capture_output=True, check=False
    )
    assert done.returncode == code, done.stderr.decode()
    return run_dir


@pytest.fixture(scope="module")
def source(workplace: Workplace) -> RunDir:
    """A run with averaged weights, so that its best checkpoint has two networks."""
    return alone(workplace, workplace.job("source", 1, *SPLITS, "epochs=12", "averaging=ema"))


def evaluation(run_dir: RunDir, step: int) -> dict[str, float]:
    (line,) = [
        line
        for line in read_metrics(run_dir.metrics, "evaluation")
        if line["step"] == step and line["split"] == "validation"
    ]
    return {"loss": line["loss"], "top1": line["top1"]}


def test_a_run_started_from_another_runs_folder_starts_with_its_accuracy(workplace: Workplace, source: RunDir) -> None:
    best = json.loads(source.result.read_text())["best_step"]
    started = workplace.train("started", 2, *SPLITS, *STILL, "model.pretrained=source")
    settings = read_job(started.job).recipe.model.pretrained
    assert settings is not None
    assert settings.source == f"source/checkpoints/step-{best:08d}"
    assert evaluation(started, 3) == pytest.approx(evaluation(source, best), rel=1e-6)
    averaged, raw = (checkpoint.load_network(source.checkpoint(best), averaged) for averaged in (True, False))
    saved = checkpoint.load_network(started.checkpoint(3))
    assert all(torch.equal(saved[name], tensor) for name, tensor in averaged.items())
    assert any(not torch.equal(saved[name], tensor) for name, tensor in raw.items())
    report = json.loads(started.pretrained.read_text())
    assert report["loaded"] == {name: name for name in averaged}
    assert (report["missing"], report["unused"], report["other_shape"]) == ([], [], [])


def test_the_plan_says_what_a_run_begins_with_and_how_much_of_it_fits(workplace: Workplace, source: RunDir) -> None:
    done = workplace.megabatch("plan", "recipe.yaml", "model.pretrained=source", "--model", "--json")
    assert done.returncode == 0, done.stderr
    model = json.loads(done.stdout)["model"]
    assert len(model["pretrained"]["loaded"]) == len(checkpoint.load_network(checkpoint.chosen(source, "best")))
    assert model["changes"][0].startswith(
        "pretrained: 16 of 16 tensors, 663 of 663 parameters, from source/checkpoints/step-"
    )
    shown = workplace.megabatch("plan", "recipe.yaml", "model.pretrained=source")
    assert "begins with" in shown.stdout
    assert "the weights of source/checkpoints/step-" in shown.stdout


def test_a_killed_run_goes_on_without_its_source_and_refuses_another_file_under_its_name(
    workplace: Workplace, source: RunDir
) -> None:
    file = workplace.folder / "copied.safetensors"
    save_file(checkpoint.load_network(checkpoint.chosen(source, "best")), file)
    uninterrupted = alone(workplace, workplace.job("uninterrupted-pretrained", 1, *LONG))
    assert losses(uninterrupted)[0] < losses(source)[0]
    run_dir = workplace.job("killed-pretrained", 1, *LONG)
    kill_after_step(workplace.start(run_dir), run_dir, 8, 0)
    file.rename(workplace.folder / "away.safetensors")
    file.write_bytes(b"another file")
    refused = workplace.megabatch("launch", "--resume", "killed-pretrained")
    assert refused.returncode == 2
    assert "copied.safetensors is not what it was: its SHA-256 is " in refused.stderr
    assert "Put the old file back, or start a new run with this one" in refused.stderr
    alone(workplace, run_dir)  # it has a checkpoint, and reads no source
    assert losses(run_dir) == losses(uninterrupted)
    file.unlink()
    shutil.rmtree(run_dir.checkpoints)
    alone(workplace, run_dir, code=1)
    (failure,) = run_dir.failures()
    assert "copied.safetensors is not there any more: put it back" in json.loads(failure.read_text())["message"]
