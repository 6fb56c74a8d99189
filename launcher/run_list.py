"""The runs below a folder, each learned from a few small reads: a thousand of them take less than a second.

A job.yaml is scanned for the lines that are needed, as ruamel needs some 20 ms for a whole one; it is parsed only where
a key of the recipe is asked for that no column has.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from megabatch.configs.errors import ConfigError
from megabatch.configs.json_files import read_json
from megabatch.configs.run_dir import RunDir
from megabatch.configs.targets import METRICS
from megabatch.launcher.status import recent_steps, state_of

DAMAGED = "damaged"
_DEPTH = 4  # ablations/NAME/runs/CELL-SEED
_HEAD = re.compile(
    rb"^(recipe|cluster):\n|^(?:  (name|epochs|nodes|processes_per_node)|    (metric)): (\S.*)$", re.MULTILINE
)
_NEEDED = {"recipe.name", "recipe.epochs", "cluster.nodes", "cluster.processes_per_node"}
Value = str | int | float | bool | None


@dataclass(frozen=True)
class Run:
    """A run folder at one look. What is not known is None."""

    run_dir: RunDir
    state: str
    recipe: str | None
    epochs: int | None
    ranks: int | None
    metric: str
    """By which its checkpoints are compared."""
    changed: float
    result: dict[str, Any] = field(repr=False)  # Any: what result.json says

    @property
    def age_seconds(self) -> float:
        """Return how long ago the run was last written to."""
        return max(0.0, time.time() - self.changed)

    @property
    def test(self) -> dict[str, float]:
        """Return what was measured on the test split at the end."""
        found = self.result.get("test")
        return {name: value for name, value in found.items() if _is_number(value)} if isinstance(found, dict) else {}

    @cached_property
    def epochs_done(self) -> float | None:
        """Return how far the training is."""
        if self.epochs is None:
            return None
        step, total = self.result.get("step"), self.result.get("total_steps")
        if isinstance(step, int) and isinstance(total, int) and total > 0:
            return round(self.epochs * step / total, 2)
        steps = recent_steps(self.run_dir)
        epoch = steps[-1].get("epoch") if steps else 0
        return float(epoch) if isinstance(epoch, int) else None

    @cached_property
    def _job(self) -> dict[str, Any]:  # Any: what stands in job.yaml
        from megabatch.configs.yaml_tree import read_tree

        try:
            values = read_tree(self.run_dir.job, str(self.run_dir.job)).values
        except (ConfigError, OSError):
            return {}
        recipe = values.get("recipe")
        return {**values, **recipe} if isinstance(recipe, dict) else values

    def value(self, key: str) -> Value:
        """Return what a key means for this run: a column, a number of result.json, or a key of recipe or cluster."""
        columns: dict[str, Value] = {
            "run": self.run_dir.root.name, "state": self.state, "recipe": self.recipe, "age": self.age_seconds,
            "epochs": self.epochs_done, "ranks": self.ranks, "best": self.result.get("best_value"),
        }  # fmt: skip
        if key in columns:
            return columns[key]
        if key.startswith("test."):
            return self.test.get(key.removeprefix("test."))
        found = _at(self.result, key)
        return found if found is not None else _at(self._job, key)


def _at(values: Any, key: str) -> Value:  # Any: of JSON or YAML
    """Return the scalar at a dotted key; `optimizer` is short for `optimizer.name`."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    found = values.get("name") if isinstance(values, dict) else values
    return found if isinstance(found, str | int | float | bool) else None


def runs_below(folder: Path) -> list[Run]:
    """Return the runs below a folder, the one that was written to last first."""
    return sorted((read_run(found) for found in run_folders(folder)), key=lambda run: run.changed, reverse=True)


def run_folders(folder: Path, depth: int = _DEPTH) -> Iterator[RunDir]:
    """Find run folders, damaged ones too; a run's own folders are not looked into, for the stages are its parts."""
    if depth == 0:
        return
    with os.scandir(folder) as entries:
        below = sorted(Path(entry) for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    for path in below:
        if is_run(RunDir(path)):
            yield RunDir(path)
        elif os.access(path, os.R_OK | os.X_OK):
            yield from run_folders(path, depth - 1)


def is_run(run_dir: RunDir) -> bool:
    """Return whether a folder is that of a run, or what is left of one."""
    return any(file.exists() for file in (run_dir.job, run_dir.metrics, run_dir.result, run_dir.ranks))


def read_run(run_dir: RunDir) -> Run:
    """Return what is known of a run. One that cannot be read is damaged; nothing is raised."""
    head = _head(run_dir)
    try:
        at_work = _newest_stage(run_dir)
        result = read_json(at_work.result)
        state = state_of(at_work)[0] if head.keys() >= _NEEDED else DAMAGED
    except (OSError, ValueError, LookupError, TypeError):  # cut short, or somebody else's
        result, state = {}, DAMAGED
    nodes, each = _number(head.get("cluster.nodes")), _number(head.get("cluster.processes_per_node"))
    return Run(
        run_dir, state, head.get("recipe.name"), _number(head.get("recipe.epochs")),
        None if nodes is None or each is None else nodes * each, _metric(head, result), _changed(run_dir), result,
    )  # fmt: skip


def _metric(head: dict[str, str], result: dict[str, Any]) -> str:
    chosen, test = head.get("recipe.metric"), result.get("test")
    if chosen in METRICS:
        return chosen
    return next((name for name in METRICS if isinstance(test, dict) and name in test), "top1")


def _newest_stage(run_dir: RunDir) -> RunDir:
    """Return the part of a run that was trained last: the run itself, if it has no stages."""
    stages = run_dir.stages() if run_dir.stage(1).root.exists() else []
    return stages[-1] if stages else run_dir


def _head(run_dir: RunDir) -> dict[str, str]:
    """Return the values one level below `recipe:` and `cluster:` that the columns need."""
    found: dict[str, str] = {}
    section = ""
    try:
        text = run_dir.job.read_bytes()
    except OSError:
        return found
    for match in _HEAD.finditer(text):
        if match[1] is not None:
            section = match[1].decode()
        elif section:
            key = (match[2] or match[3]).decode()
            found.setdefault(f"{section}.{key}", match[4].decode(errors="replace").strip("'\" "))
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _changed(run_dir: RunDir) -> float:
    times = []
    for file in (run_dir.job, run_dir.metrics, run_dir.result, run_dir.ranks):
        with suppress(OSError):
            times.append(file.stat().st_mtime)
    return max(times, default=0.0)
