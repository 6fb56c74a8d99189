"""`megabatch compare`: several runs side by side: results, where the recipes differ, the curves in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from megabatch.configs.durations import duration
from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.run_dir import RunDir
from megabatch.configs.targets import METRICS
from megabatch.launcher.render import leaves
from megabatch.launcher.report import charts, words
from megabatch.launcher.report.charts import Better, Chart, Series, Unit
from megabatch.launcher.report.metrics import Column as MetricColumn
from megabatch.launcher.report.page import document
from megabatch.launcher.report.run import Run, read_run
from megabatch.launcher.report.summary import best_validation, git_state
from megabatch.launcher.report.table import Table

_NOT_COMPARED = ("environment",)  # of the cluster: it may hold what others must not see
_COLUMNS: tuple[tuple[str, str, Unit], ...] = (
    ("loss", "Training loss", "number"), ("learning_rate", "Learning rate", "number"),
    ("samples_per_second", "Throughput", "rate"), ("gradient_norm", "Gradient norm", "number"),
    ("noise_scale", "Noise scale", "number"), ("data_wait_share", "Waiting for data", "share"),
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A column of the table of results: its title, a value for each run, its unit, and which of them is best."""

    key: str
    title: str
    values: Sequence[float | None]
    unit: str
    better: str = ""  # lowest, highest, or neither


def read_runs(folders: Sequence[str]) -> list[Run]:
    """Read the runs. Raises ConfigError with all folders that are none."""
    found: list[Run] = []
    problems: list[Problem] = []
    for folder in folders:
        try:
            found.append(read_run(RunDir(Path(folder).absolute())))
        except ConfigError as error:
            problems.extend(error.problems)
    twice = {run.run_dir.root.resolve() for run in found}
    if not problems and len(twice) < 2:
        problems.append(Problem(", ".join(folders), "is one run: name two or more to compare"))
    if problems:
        raise ConfigError(problems)
    return found


def names_of(runs: Sequence[Run]) -> list[str]:
    """Return a name for each run, as short as it can be without two being the same.

    The folder's own name, with those of the folders above it where that is not enough.
    """
    parts = [run.run_dir.root.resolve().parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def results_of(runs: Sequence[Run]) -> list[Column]:
    """Return the numbers of the runs, column by column; those that no run has are left out."""
    columns = [
        Column("steps", "Steps", [run.metrics.steps.last("step") for run in runs], "count"),
        Column("samples_seen", "Samples", [run.metrics.steps.last("samples_seen") for run in runs], "count"),
    ]
    for name, metric in METRICS.items():
        unit, better = "share" if metric.is_share else "number", "highest" if metric.higher_is_better else "lowest"
        best = [_number((best_validation(run) or {}).get(name)) for run in runs]
        test = [_number((run.result.get("test") or {}).get(name)) for run in runs]
        columns.append(Column(f"validation_{name}", f"Validation {metric.title}", best, unit, better))
        columns.append(Column(f"test_{name}", f"Test {metric.title}", test, unit, better))
    rates = [_median(run.metrics.steps.columns["samples_per_second"]) for run in runs]
    columns += [
        Column("samples_per_second", "Samples/s", rates, "count", "highest"),
        Column("seconds", "Time", [run.training_seconds for run in runs], "seconds", "lowest"),
        Column("device_hours", "Device-hours", [run.device_hours for run in runs], "hours", "lowest"),
    ]
    return [column for column in columns if any(value is not None for value in column.values)]


def results_table(runs: Sequence[Run]) -> Table:
    """Return the results as texts: a row for each run, the best number of each column pointed out."""
    columns = results_of(runs)
    rows = [
        (name, run.state, *(_shown(column.values[number], column.unit) for column in columns))
        for number, (name, run) in enumerate(zip(names_of(runs), runs, strict=True))
    ]
    best = {(row, at + 2) for at, column in enumerate(columns) for row in _best(column)}
    return Table(("Run", "State", *(column.title for column in columns)), tuple(rows), texts=2, best=frozenset(best))


def differences_of(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return the keys of recipe and cluster in which the runs differ, with a value or None for each run."""
    values = [_settings(run) for run in runs]
    keys = dict.fromkeys(key for one in values for key in one)
    return {
        key: [one.get(key) for one in values]
        for key in keys
        if any(one.get(key) != values[0].get(key) for one in values)
    }


def differences_table(runs: Sequence[Run]) -> Table:
    """Return those as texts."""
    rows = [(key, *map(words.setting, values)) for key, values in differences_of(runs).items()]
    return Table(("Key", *names_of(runs)), tuple(rows), texts=1 + len(runs))


def as_json(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return for each run what the tables have."""
    columns, different = results_of(runs), differences_of(runs)
    return [
        {
            "run": str(run.run_dir.root), "name": name, "state": run.state,
            "results": {column.key: column.values[number] for column in columns},
            "differences": {key: values[number] for key, values in different.items()},
        }
        for number, (name, run) in enumerate(zip(names_of(runs), runs, strict=True))
    ]  # fmt: skip


def compare_page(runs: Sequence[Run]) -> str:
    """Return compare.html."""
    names = names_of(runs)
    shown = {"names": names, "results": results_table(runs), "differences": differences_table(runs)}
    named = [replace(run, name=name) for run, name in zip(runs, names, strict=True)]
    return document("compare.html", named, _charts(named), shown)


def _settings(run: Run) -> dict[str, Any]:
    recipe = {".".join(map(str, path)): value for path, value in leaves(run.recipe)}
    cluster = {
        f"cluster.{'.'.join(map(str, path))}": value
        for path, value in leaves(run.cluster)
        if path and path[0] not in _NOT_COMPARED
    }
    git = {"git": text} if (text := git_state(run)) else {}
    return {key: words.without_secrets(value) for key, value in {**recipe, **cluster, **git}.items() if key}


def _charts(runs: Sequence[Run]) -> list[Chart]:
    """Return a chart for each kind of curve that a run has, with a colour for each run."""
    found = []
    for name, title, unit in _COLUMNS:
        curves = [
            _recoloured(one, n, run) for n, run in enumerate(runs) for one in charts.of_column(run, name, run.name)
        ]
        found.append(Chart(name, title, unit, tuple(curves), better="lowest" if name == "loss" else ""))
    splits = dict.fromkeys(str(line.get("split")) for run in runs for line in run.metrics.evaluations)
    evaluations = [_evaluation_chart(runs, split, name) for split in splits for name in METRICS]
    drawn = [found[0], *evaluations, *found[1:]]
    return [chart for chart in drawn if any(len(one.steps) > 1 for one in chart.series)]  # a point is in the table


def _evaluation_chart(runs: Sequence[Run], split: str, name: str) -> Chart:
    metric, curves = METRICS[name], []
    for number, run in enumerate(runs):
        steps, values = charts.of_evaluations(run, name, split)
        if len(steps):
            curves.append(Series(run.name, "line" if len(steps) > 1 else "dots", steps, values, number, number))
    title = f"{split[:1].upper()}{split[1:]} {metric.title}"
    better: Better = "highest" if metric.higher_is_better else "lowest"
    key = f"{''.join(c if c.isalnum() else '-' for c in split)}-{name}"
    unit: Unit = "share" if metric.is_share else "number"
    return Chart(key, title, unit, tuple(curves), better=better)


def _recoloured(one: Series, number: int, run: Run) -> Series:
    return replace(one, name=run.name, colour=number, run=number)


def _best(column: Column) -> list[int]:
    known = [value for value in column.values if value is not None]
    if not column.better or len(set(known)) < 2:
        return []
    best = max(known) if column.better == "highest" else min(known)
    return [row for row, value in enumerate(column.values) if value == best]


def _shown(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if unit == "seconds":
        return duration(value)
    if unit == "hours":
        return words.hours(value)
    return f"{value:,.0f}" if unit == "count" else words.quantity(value, unit)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _median(values: MetricColumn) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None
