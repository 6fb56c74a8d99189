"""The plan says how long a run takes where one like it has been trained, and nothing where none was."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.known_speed import known_speed
from megabatch.launcher.prepare import job_of
from megabatch.launcher.save_job import write_job


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
    trained(tmp_path, "like-it", job("epochs=7", "seed=3"), 500.0, 1.0)
    trained(tmp_path, "another", job(other), 900.0, 2.0)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "metrics.jsonl").write_text("{")
    found = known_speed(job(), tmp_path)
    assert found is not None
    assert (found.samples_per_second, found.run.name) == (500.0, "like-it")
    trained(tmp_path, "newer", job("optimizer.base_learning_rate=0.5"), 700.0, 3.0)
    newer = known_speed(job(), tmp_path)
    assert newer is not None
    assert newer.run.name == "newer"
