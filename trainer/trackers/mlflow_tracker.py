"""MLflow: one run for a job and all its restarts, with `samples_seen` as the step of its metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from megabatch.configs.differences import flat
from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.configs.tracking import Mlflow
from megabatch.trainer.provenance import shown_recipe
from megabatch.trainer.trackers.lines import Line, is_number, metrics_of, rows_of
from megabatch.trainer.trackers.summary import summary

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_SECONDS_BETWEEN_SENDS = 5.0


def follow(settings: Mlflow, job: Job, run_dir: RunDir, lines: Iterator[Line]) -> None:
    """Send every number, several steps at a time; at the end the best validation, and how the run ended."""
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

    client = MlflowClient(settings.uri)
    run = _run_id(client, settings.experiment or job.recipe.name, job, run_dir)
    waiting: list[Metric] = []
    sent_at = time.monotonic()
    known = client.get_run(run).data.metrics.get("step", 0)
    for line in rows_of(lines, run_dir.metrics, whole=True):
        values, at = metrics_of(line), (int(line["time"] * 1000), line["samples_seen"])
        if line["step"] >= known:  # of that step something may be missing; the same point twice is one there
            waiting += [Metric(name, value, *at) for name, value in values.items() if is_number(value)]
        if time.monotonic() - sent_at > _SECONDS_BETWEEN_SENDS:
            client.log_batch(run, metrics=waiting)
            waiting, sent_at = [], time.monotonic()
    now, best = int(time.time() * 1000), summary(job, run_dir).items()
    client.log_batch(run, metrics=waiting + [Metric(name, value, now, 0) for name, value in best if is_number(value)])
    client.set_terminated(run, "FINISHED" if run_dir.result.exists() else "FAILED")


def _run_id(client: MlflowClient, experiment: str, job: Job, run_dir: RunDir) -> str:
    """Return the id of the job's run, which is made once and told what the recipe says."""
    from mlflow.entities import Param

    if run_dir.mlflow_id.exists():
        before = run_dir.mlflow_id.read_text(encoding="utf-8").strip()
        client.update_run(before, status="RUNNING")
        return before
    found = client.get_experiment_by_name(experiment)
    number = found.experiment_id if found is not None else client.create_experiment(experiment)
    run_id: str = client.create_run(number, run_name=run_dir.root.name).info.run_id
    recipe = flat(shown_recipe(job)).items()
    client.log_batch(run_id, params=[Param(key, str(value)[:6000]) for key, value in recipe])  # which is what it takes
    run_dir.mlflow_id.write_text(run_id, encoding="utf-8")
    return run_id
