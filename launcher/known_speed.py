"""How long a run will take, if one like it has been trained from here: read from its metrics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from megabatch.configs.errors import ConfigError
from megabatch.configs.job import Job
from megabatch.configs.load import read_job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.status import tail

_NEWEST = 3  # run folders that are read: each takes some hundredths of a second


class Speed(NamedTuple):
    """What a run reached."""

    samples_per_second: float
    run: Path


def known_speed(job: Job, runs: Path) -> Speed | None:
    """Return the speed of the newest run below `runs` with the same model, batch, precision, engine and cluster."""
    wanted = _what_sets_the_speed(job)
    for run_dir in _candidates(job, runs):
        try:
            same = _what_sets_the_speed(read_job(run_dir.job)) == wanted
        except ConfigError:  # of another version
            continue
        seen = [line["samples_per_second"] for line in tail(run_dir.metrics) if line.get("kind") == "step"]
        if same and seen:
            return Speed(median(seen), run_dir.root)
    return None


def _candidates(job: Job, runs: Path) -> Iterator[RunDir]:
    """Return the newest run folders whose job.yaml has the name of the model in it."""
    files = sorted(runs.glob("*/metrics.jsonl"), key=lambda file: file.stat().st_mtime, reverse=True)
    found = 0
    for file in files:
        run_dir = RunDir(file.parent)
        if run_dir.job.is_file() and job.recipe.model.name in run_dir.job.read_text(encoding="utf-8", errors="replace"):
            yield run_dir
            found += 1
        if found == _NEWEST:
            return


def _what_sets_the_speed(job: Job) -> dict[str, Any]:  # Any: plain values of the schema
    recipe, cluster = job.recipe, job.cluster
    return {
        "model": recipe.model.model_copy(update={"pretrained": None}), "batch": recipe.batch,
        "precision": recipe.precision, "engine": recipe.engine, "size": recipe.data.image_size,
        "transforms": recipe.data.train_transforms, "nodes": cluster.nodes, "ranks": cluster.processes_per_node,
        "teachers": recipe.distillation and [teacher.model for teacher in recipe.distillation.teachers],
        "device": cluster.device, "threads": (cluster.threads_per_process, cluster.loader_threads),
    }  # fmt: skip


def in_words(seconds: float) -> str:
    """Return a time as a person says it.

    >>> in_words(75.2), in_words(9000), in_words(0.4)
    ('1 min 15 s', '2 h 30 min', '0.4 s')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes_left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
