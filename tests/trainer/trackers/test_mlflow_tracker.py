"""MLflow, read back from its database with its own client."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest

from megabatch.configs.run_dir import RunDir
from megabatch.configs.tracking import Mlflow
from megabatch.trainer.trackers import mlflow_tracker
from megabatch.trainer.trackers.base import Trackers
from megabatch.trainer.trackers.jsonl import JsonlTracker
from megabatch.trainer.trackers.mirror import Mirror
from support.tracked import job, tell

tracking = pytest.importorskip("mlflow.tracking")
pytestmark = pytest.mark.filterwarnings("default")


def test_a_job_and_its_restart_are_one_run_with_no_point_twice(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    run_dir.root.mkdir()
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    warnings: list[str] = []
    for attempt, steps in ((1, (1, 2, 3)), (2, (3, 4, 5))):
        follow = partial(mlflow_tracker.follow, Mlflow(uri=uri), job(tmp_path), run_dir)
        told = Trackers((JsonlTracker(run_dir.metrics), Mirror("MLflow", follow, warnings.append)))
        if attempt == 2:
            run_dir.result.write_text('{"outcome": "finished"}')
        tell(told, steps, attempt, top1=0.9 / attempt)
        unsent = JsonlTracker(run_dir.metrics)  # as if it had been killed before it sent this
        unsent.take({"kind": "step", "attempt": 1, "time": time.time(), "step": 4, "samples_seen": 80, "loss": 0.25})
        unsent.close()
    assert warnings == []
    client = tracking.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert run.info.run_id == run_dir.mlflow_id.read_text()
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")

    def curve(name: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]

    assert curve("train/loss") == [(20, 1.0), (40, 0.5), (60, 1 / 3), (80, 0.25), (100, 0.2)]
    assert curve("validation/top1") == [(60, 0.9), (100, 0.45)]
    assert (run.data.metrics["best/top1"], run.data.metrics["best/step"]) == (0.9, 3)
    assert (run.data.params["batch.global_batch"], run.data.params["optimizer.name"]) == ("256", "lamb")
    assert "hunter2" not in str(run)
