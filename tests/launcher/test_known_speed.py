"""The plan says how long a run takes where one like it has been trained, and nothing where none was."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.cli import app
from megabatch.launcher.known_speed import known_speed
from megabatch.launcher.prepare import job_of
from megabatch.launcher.save_job import write_job
from support.runs import Workplace


def job(*overrides: str) -> Job:
    return job_of(load("digits", "laptop", overrides))


def trained(runs: Path, name: str, of: Job, speed: float, when: float) -> None:
    run_dir = RunDir(runs / name)
    run_dir.root.mkdir(parents=True)
    write_job(of, run_dir.job)
    lines = [{"kind": "step", "step": step, "samples_per_second": speed + step} for step in (-1, 0, 1)]
    run_dir.metrics.write_text("".join(json.dumps(line) + "\n" for line in [{"kind": "message"}, *lines]))
    os.utime(run_dir.metrics, (when, when))


@pytest.mark.parametrize(
    "other", ["batch.micro_batch=5", "cluster.processes_per_node=1", "precision=bf16", "data.image_size=12"]
)
def test_only_runs_of_the_same_work_on_the_same_ranks_count(tmp_path: Path, other: str) -> None:
    assert known_speed(job(), tmp_path) is None
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "metrics.jsonl").write_text("{")
    trained(tmp_path, "of-somebody-else", job(), 900.0, 5.0)
    for unreadable in ("job.yaml", "metrics.jsonl"):  # a file that cannot be opened, for root too
        file = tmp_path / "of-somebody-else" / unreadable
        text = file.read_text()
        file.unlink()
        file.mkdir()
        assert known_speed(job(), tmp_path) is None
        file.rmdir()
        file.write_text(text)
    (tmp_path / "of-somebody-else" / "job.yaml").unlink()
    (tmp_path / "vanishing").mkdir()
    (tmp_path / "vanishing" / "metrics.jsonl").symlink_to("gone")
    trained(tmp_path, "like-it", job("epochs=7", "seed=3"), 500.0, 1.0)
    trained(tmp_path, "another", job(other), 900.0, 2.0)
    found = known_speed(job(), tmp_path)
    assert found is not None
    assert (found.samples_per_second, found.run.name) == (500.0, "like-it")
    trained(tmp_path, "newer", job("optimizer.base_learning_rate=0.5"), 700.0, 3.0)
    newer = known_speed(job(), tmp_path)
    assert newer is not None
    assert newer.run.name == "newer"


def test_the_plan_has_a_row_of_it(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace.folder)
    assert "\ntime " not in CliRunner().invoke(app, ["plan", "recipe.yaml"]).stdout
    trained(Path("runs"), "before", job_of(load("recipe.yaml", "laptop", ["epochs=7"])), 22.0, 1.0)
    shown = CliRunner().invoke(app, ["plan", "recipe.yaml"], env={"COLUMNS": "160"}).stdout
    assert "2s of training steps an epoch, 4s in all, at 22 samples/s as in runs/before" in shown
    told = CliRunner().invoke(app, ["plan", "recipe.yaml", "--json"]).stdout
    assert json.loads(told)["samples_per_second"] == 22.0
