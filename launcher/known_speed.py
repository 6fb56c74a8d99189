"""How long a run will take, if one like it has been trained from here: read from its metrics."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from megabatch.configs.errors import ConfigError
from megabatch.configs.job import Job
from megabatch.configs.json_files import tail
from megabatch.configs.load import read_job
from megabatch.configs.run_dir import RunDir

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
            seen = [line["samples_per_second"] for line in tail(run_dir.metrics) if line.get("kind") == "step"]
        except (ConfigError, OSError):  # of another version, or somebody else's
            continue
        if same and seen:
            return Speed(median(seen), run_dir.root)
    return None


def _candidates(job: Job, runs: Path) -> Iterator[RunDir]:
    """Return the newest run folders whose job.yaml has the name of the model in it."""
    files = sorted(runs.glob("*/metrics.jsonl"), key=_changed, reverse=True)
    named = (RunDir(file.parent) for file in files if _names(RunDir(file.parent).job, job.recipe.model.name))
    yield from islice(named, _NEWEST)


def _changed(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:  # removed at this moment
        return 0.0


def _names(file: Path, model: str) -> bool:
    try:
        return model in file.read_text(encoding="utf-8", errors="replace")
    except OSError:  # somebody else's run, or none
        return False


def _what_sets_the_speed(job: Job) -> dict[str, Any]:  # Any: plain values of the schema
    recipe, cluster = job.recipe, job.cluster
    return {
        "model": recipe.model.model_copy(update={"pretrained": None}), "batch": recipe.batch,
        "precision": recipe.precision, "engine": recipe.engine, "size": recipe.data.image_size,
        "transforms": recipe.data.train_transforms, "nodes": cluster.nodes, "ranks": cluster.processes_per_node,
        "teachers": recipe.distillation and [teacher.model for teacher in recipe.distillation.teachers],
        "device": cluster.device, "threads": (cluster.threads_per_process, cluster.loader_threads),
    }  # fmt: skip
