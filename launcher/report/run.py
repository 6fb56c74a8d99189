"""Reads a run folder into a frozen Run. A missing or half-written file only means that there is less to show."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.json_files import read_json
from megabatch.configs.run_dir import RunDir
from megabatch.configs.yaml_tree import read_tree
from megabatch.launcher.from_here import from_here
from megabatch.launcher.report.attempts import Attempt, attempts_of
from megabatch.launcher.report.left_out import LeftOut, read_left_out
from megabatch.launcher.report.metrics import Metrics, read_all, read_lines
from megabatch.launcher.status import RUNNING, WAITING, look

_OF_BAD_STEPS = ("step", "reason", "then", "loss", "gradient_norm")  # a line has all samples of its step too


@dataclass(frozen=True)
class Run:
    """What a run folder says at one moment."""

    run_dir: RunDir
    name: str
    read_at: float
    state: str
    state_detail: str
    job: dict[str, Any]  # Any, here and below: plain values of files, perhaps of another version
    result: dict[str, Any]
    metrics: Metrics
    attempts: tuple[Attempt, ...]
    slurm_attempts: tuple[dict[str, Any], ...]
    rank_history: tuple[dict[str, Any], ...]
    details: tuple[dict[str, Any], ...]
    left_out: LeftOut
    bad_steps: tuple[dict[str, Any], ...]
    launches: tuple[dict[str, Any], ...]

    @property
    def recipe(self) -> dict[str, Any]:
        """Return the recipe as plain values."""
        return _mapping(self.job.get("recipe"))

    @property
    def cluster(self) -> dict[str, Any]:
        """Return the cluster as plain values."""
        return _mapping(self.job.get("cluster"))

    @property
    def is_running(self) -> bool:
        """Return whether there is more to come."""
        return self.state in (RUNNING, WAITING)

    @property
    def num_ranks(self) -> int:
        """Return the ranks of the newest start."""
        known = [attempt.num_ranks for attempt in self.attempts if attempt.num_ranks]
        of_cluster = int(self.cluster.get("nodes") or 1) * int(self.cluster.get("processes_per_node") or 1)
        return known[-1] if known else of_cluster

    @property
    def device(self) -> str:
        """Return what the newest start ran on, as far as it is known."""
        told = [attempt.device for attempt in self.attempts if attempt.device]
        return told[-1] if told else str(self.cluster.get("device") or "cpu")

    @cached_property
    def total_steps(self) -> int | None:
        """Return how many steps the whole training has, if that is known."""
        planned = [launch.get("total_steps") for launch in self.launches]
        known = [self.result.get("total_steps"), *reversed(planned)]
        return next((int(steps) for steps in known if steps), None)

    @cached_property
    def training_seconds(self) -> float:
        """Return the time of all starts together."""
        return sum(attempt.seconds for attempt in self.attempts)

    @cached_property
    def device_hours(self) -> float:
        """Return the time of all starts, each times its ranks: a rank has one device."""
        return sum(attempt.seconds * (attempt.num_ranks or self.num_ranks) for attempt in self.attempts) / 3600


def read_run(run_dir: RunDir) -> Run:
    """Read everything. Raises ConfigError for a folder that is no run."""
    job = _read_job(run_dir.job)
    status = look((run_dir.stages() or [run_dir])[-1])  # one with stages does what the newest of them does
    metrics = read_all(run_dir.metrics)
    is_running = status.state in (RUNNING, WAITING)
    now = time.time()
    lines = [*read_lines(run_dir.launches)]
    endings = [line for line in lines if line.get("kind") == "ended"]
    attempts = attempts_of([*read_lines(run_dir.starts)], endings, metrics.steps, now if is_running else None)
    details = [read_json(file) for file in sorted(run_dir.root.glob("details-*.json"))]
    return Run(
        run_dir=run_dir, name=str(_mapping(job.get("recipe")).get("name") or run_dir.root.name), read_at=now,
        state=status.state, state_detail=status.detail, job=job, result=read_json(run_dir.result), metrics=metrics,
        attempts=tuple(attempts), slurm_attempts=tuple(read_lines(run_dir.attempts)),
        rank_history=tuple(read_lines(run_dir.rank_history)),
        details=tuple(detail for detail in details if detail.get("split")), left_out=read_left_out(run_dir.data_errors),
        bad_steps=tuple({key: line.get(key) for key in _OF_BAD_STEPS} for line in read_lines(run_dir.bad_steps)),
        launches=tuple(line for line in lines if line.get("kind") == "launch"),
    )  # fmt: skip


def _read_job(file: Path) -> dict[str, Any]:
    """Return job.yaml as plain values: one of another version is still worth a page."""
    if not file.is_file():
        raise ConfigError(
            [
                Problem(
                    from_here(file.parent), "is no run folder: it has no job.yaml. `megabatch launch RECIPE` makes one"
                )
            ]
        )
    return read_tree(file, from_here(file)).values


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
