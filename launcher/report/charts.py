"""The curves of a run as values: which there are, their points, and what they say in words. Draws nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from megabatch.configs.targets import METRICS
from megabatch.launcher.report import words
from megabatch.launcher.report.metrics import Column, number
from megabatch.launcher.report.points import bucket_means, extremes, short
from megabatch.launcher.report.run import Run

Kind = Literal["line", "faint", "dots"]
Unit = Literal["number", "share", "bytes", "rate"]
Better = Literal["", "lowest", "highest"]
_MEANS = 200  # a mean line has at most so many points
_POINTS = 2000  # of one curve, if there are few
_ALL_POINTS = 60_000  # of a page: about 1 MB
_KNOTS = 300
_RANKS_DRAWN = 8
_EXACT = ("learning_rate",)
_TOLD = 3  # more curves are told of together


@dataclass(frozen=True)
class Series:
    """One curve: values at steps."""

    name: str
    kind: Kind
    steps: Column
    values: Column
    colour: int = 0
    run: int = 0


@dataclass(frozen=True)
class Chart:
    """Curves with one axis."""

    key: str
    title: str
    unit: Unit
    series: tuple[Series, ...]
    marks: tuple[tuple[float, str], ...] = ()
    better: Better = ""
    note: str = ""

    @property
    def text(self) -> str:
        """Return in words what the curves show: the alternative for who does not see them."""
        drawn = [one for one in self.series if one.kind != "faint"]
        return " ".join(_told(one, self) for one in drawn) if len(drawn) <= _TOLD else _told_together(drawn, self)

    def to_json(self, most: int) -> dict[str, Any]:
        """Return what the script draws, each curve with at most about `most` points."""
        drawn = [_series_json(one, most) for one in self.series]
        return {"key": self.key, "title": self.title, "unit": self.unit, "series": drawn, "marks": self.marks}


def charts_of(run: Run) -> list[Chart]:
    """Return the charts of a run that have anything to show."""
    marks = _marks(run)
    charts = [_loss(run, marks), *_metrics(run, marks), *_of_steps(run), *_of_ranks(run)]
    return [chart for chart in charts if chart.series]


def axes(run: Run) -> dict[str, Any]:
    """Return at some steps the samples seen and the hours trained; between them both grow evenly."""
    steps = run.metrics.steps
    chosen = np.unique(np.linspace(0, len(steps) - 1, _KNOTS).astype(int)).tolist() if len(steps) else []
    step = [int(steps.columns["step"][i]) for i in chosen]  # no two may become the same
    columns = (np.nan_to_num(steps.columns["samples_seen"]), steps.hours())
    samples, hours = ([short(float(column[i])) for i in chosen] for column in columns)
    return {"name": run.name, "step": [0, *step], "samples": [0, *samples], "hours": [0, *hours]}


def most_points(charts: Sequence[Chart]) -> int:
    """Return how many points a curve may have, so that the page stays small."""
    drawn = sum(len(chart.series) for chart in charts)
    return max(100, min(_POINTS, _ALL_POINTS // max(1, drawn)))


def of_column(run: Run, name: str, title: str) -> list[Series]:
    """Return a column of the steps as a curve; of many noisy points the mean of neighbours, and each behind it."""
    table = run.metrics.steps
    known = np.isfinite(table.columns[name])
    x, y = table.columns["step"][known], table.columns[name][known]
    if len(x) < 2 * _MEANS or name in _EXACT:
        return [Series(title, "line", x, y)] if len(x) else []
    mean = bucket_means(x, y, _MEANS)
    each = round(len(x) / _MEANS)
    return [Series(f"{title}, every step", "faint", x, y), Series(f"{title}, mean of {each}", "line", *mean)]


def of_evaluations(run: Run, metric: str, split: str) -> tuple[Column, Column]:
    """Return steps and values of a metric on a split."""
    lines = [line for line in run.metrics.evaluations if line.get("split") == split]
    values = np.array([number(line.get(metric)) for line in lines], dtype=np.float64)
    steps = np.array([number(line.get("step")) for line in lines], dtype=np.float64)
    return steps[np.isfinite(values)], values[np.isfinite(values)]


def _loss(run: Run, marks: tuple[tuple[float, str], ...]) -> Chart:
    curves = [*of_column(run, "loss", "training"), *_splits(run, "loss")]
    return Chart("loss", "Loss", "number", tuple(curves), marks, "lowest")


def _metrics(run: Run, marks: tuple[tuple[float, str], ...]) -> list[Chart]:
    return [
        Chart(
            name, metric.title[0].upper() + metric.title[1:], "share" if metric.is_share else "number",
            tuple(_splits(run, name)), marks,
            "highest" if metric.higher_is_better else "lowest",
        )
        for name, metric in METRICS.items()
        if name != "loss"
    ]  # fmt: skip


def _splits(run: Run, metric: str) -> list[Series]:
    splits = dict.fromkeys(str(line.get("split")) for line in run.metrics.evaluations)
    found = []
    for colour, split in enumerate(splits, start=1):
        steps, values = of_evaluations(run, metric, split)
        if len(steps):
            found.append(Series(split, "line" if len(steps) > 1 else "dots", steps, values, colour))
    return found


def _of_steps(run: Run) -> list[Chart]:
    notes = {
        "noise_scale": "A batch of so many samples needs twice the fewest steps possible; far larger ones gain little.",
        "data_wait_share": "The share of a step in which rank 0 waited for its samples.",
    }
    kinds: list[tuple[str, str, Unit, str]] = [
        ("learning_rate", "Learning rate", "number", "learning rate"),
        ("samples_per_second", "Throughput", "rate", "samples/s"),
        ("gradient_norm", "Gradient norm", "number", "gradient norm"),
        ("noise_scale", "Noise scale", "number", "noise scale"),
        ("update_ratio", "Update to weight ratio", "number", "ratio"),
        ("distillation_loss", "Distillation loss", "number", "distillation loss"),
        ("data_wait_share", "Waiting for data", "share", "waiting for data"),
    ]
    return [
        Chart(name, title, unit, tuple(of_column(run, name, label)), note=notes.get(name, ""))
        for name, title, unit, label in kinds
    ]


def _of_ranks(run: Run) -> list[Chart]:
    kinds: list[tuple[str, str, Unit]] = [
        ("memory_bytes", "Memory of a rank", "bytes"),
        ("gpu_memory_bytes", "GPU memory of a rank", "bytes"),
        ("waits_for_ranks", "Waiting for other ranks", "share"),
    ]
    note = "All ranks leave a collective together: who waits least came last, and the others waited for it."
    return [
        Chart(name, title, unit, tuple(_ranks_series(run, name)), note=note if name == "waits_for_ranks" else "")
        for name, title, unit in kinds
    ]


def _ranks_series(run: Run, name: str) -> list[Series]:
    """Return a curve for each of few ranks, or lowest, median and highest of many."""
    rows = [(number(line.get("step")), _by_rank(line, name)) for line in run.rank_history]
    rows = [(step, values) for step, values in rows if values and np.isfinite(step)]
    ranks = sorted({rank for _, values in rows for rank in values})
    if len(ranks) <= _RANKS_DRAWN:
        return [_rank_series(rows, rank) for rank in ranks]
    steps = np.array([step for step, _ in rows])
    every = [np.array(list(values.values())) for _, values in rows]
    return [
        Series(title, "line", steps, np.array([float(np.quantile(values, part)) for values in every]), colour)
        for colour, (title, part) in enumerate({"lowest": 0.0, "median": 0.5, "highest": 1.0}.items())
    ]


def _rank_series(rows: Sequence[tuple[float, dict[int, float]]], rank: int) -> Series:
    own = [(step, values[rank]) for step, values in rows if rank in values]
    return Series(f"rank {rank}", "line", np.array([step for step, _ in own]), np.array([y for _, y in own]), rank)


def _by_rank(line: dict[str, Any], name: str) -> dict[int, float]:
    values = {int(rank.get("rank", -1)): number(rank.get(name)) for rank in line.get("ranks", ())}
    return {rank: value for rank, value in values.items() if np.isfinite(value)}


def _marks(run: Run) -> tuple[tuple[float, str], ...]:
    restarts = [(float(attempt.first_step), f"start {attempt.number}") for attempt in run.attempts[1:]]
    bad = [(number(line.get("step")), "bad step") for line in run.bad_steps[:20]]
    return tuple(mark for mark in (*restarts, *bad) if np.isfinite(mark[0]))


def _told(one: Series, chart: Chart) -> str:
    def shown(value: float) -> str:
        return words.quantity(float(value), chart.unit)

    name = one.name[0].upper() + one.name[1:]
    if len(one.values) == 1:
        return f"{name}: {shown(one.values[0])} at step {one.steps[0]:,.0f}."
    low, high = int(np.argmin(one.values)), int(np.argmax(one.values))
    if shown(one.values[low]) == shown(one.values[high]):
        return f"{name}: {shown(one.values[low])} throughout."
    found = [("lowest", low), ("highest", high)]
    best = [f"{which} {shown(one.values[at])} at step {one.steps[at]:,.0f}" for which, at in found
            if chart.better in ("", which)]  # fmt: skip
    return f"{name}: from {shown(one.values[0])} to {shown(one.values[-1])}, {', '.join(best)}."


def _told_together(drawn: Sequence[Series], chart: Chart) -> str:
    ends = sorted(drawn, key=lambda one: float(one.values[-1]))
    first, last = (f"{words.quantity(float(one.values[-1]), chart.unit)} ({one.name})" for one in (ends[0], ends[-1]))
    return f"{len(drawn)} curves; at their ends the lowest is {first}, the highest {last}."


def _series_json(one: Series, most: int) -> dict[str, Any]:
    kept = extremes(one.values, most)
    x, y = ([short(float(value)) for value in values[kept]] for values in (one.steps, one.values))
    return {"name": one.name, "kind": one.kind, "colour": one.colour, "run": one.run, "x": x, "y": y}
