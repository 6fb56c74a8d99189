"""What an ablation says: the main metric of each cell over the seeds, and its difference to the base, seed by seed.

The same seed gives the same order of samples in every cell, so the difference is taken within a seed and then
averaged. Whether it is more than chance is judged by the 95 % interval of Student's t: mean +- t * s / sqrt(n).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from megabatch.configs.metrics import read_metrics
from megabatch.configs.run_dir import RunDir
from megabatch.configs.targets import higher_is_better, main_metric
from megabatch.launcher import launch
from megabatch.launcher.study.ablation import Ablation, Run

Split = Literal["validation", "test"]
SPLITS: tuple[Split, ...] = ("validation", "test")
Verdict = Literal["helps", "hurts", "unclear"]
_UP_HELPS: tuple[Verdict, Verdict] = ("helps", "hurts")  # what a rise and a fall of the metric do

# The 97.5 % quantile of Student's t for 1, 2, ... 30 degrees of freedom; beyond, that of the normal distribution.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_NORMAL = 1.960


@dataclass(frozen=True)
class Outcome:
    """One run: values of the metric and losses by split, none where the run did not get there; `status` says why."""

    seed: int
    status: str
    values: dict[Split, float]
    loss: dict[Split, float]
    steps: int
    folder: str


@dataclass(frozen=True)
class Spread:
    """Several values: how many, their mean, standard deviation (n - 1; none for one value), least and most."""

    n: int
    mean: float
    deviation: float | None
    least: float
    most: float


@dataclass(frozen=True)
class Effect:
    """A cell against the base on one split: paired differences of the metric by seed, and what they say."""

    differences: tuple[float, ...]
    spread: Spread
    interval: tuple[float, float] | None
    verdict: Verdict


@dataclass(frozen=True)
class CellResult:
    """A cell with all its runs. `metric` is a key of configs/targets.py:METRICS."""

    label: str
    outcomes: tuple[Outcome, ...]
    values: dict[Split, Spread]
    effects: dict[Split, Effect]
    metric: str = "top1"


def collect(ablation: Ablation, failures: dict[Path, str]) -> list[CellResult]:
    """Read every run folder; the first result is that of the base."""
    metric = main_metric(ablation.base.recipe.data.target)
    outcomes = {
        cell: tuple(_outcome(run, metric, failures.get(run.run_dir.root)) for run in ablation.runs if run.cell == cell)
        for cell in ablation.cells
    }
    base = outcomes[ablation.cells[0]]
    return [_cell_result(cell.label, found, base, metric) for cell, found in outcomes.items()]


def _cell_result(label: str, outcomes: tuple[Outcome, ...], base: tuple[Outcome, ...], metric: str) -> CellResult:
    found = {split: [one.values[split] for one in outcomes if split in one.values] for split in SPLITS}
    values = {split: spread(of_split) for split, of_split in found.items() if of_split}
    effects = {}
    for split in SPLITS:
        pairs = [(one.values, other.values) for one, other in zip(outcomes, base, strict=True)]
        differences = [one[split] - other[split] for one, other in pairs if split in one and split in other]
        if differences and outcomes is not base:
            effects[split] = effect(differences, higher_is_better(metric))
    return CellResult(label, outcomes, values, effects, metric)


def effect(differences: Sequence[float], higher_is_better: bool = True) -> Effect:
    """Return what paired differences say of a metric.

    >>> effect([0.02, 0.021, 0.019]).verdict, effect([0.02, -0.01, 0.03]).verdict
    ('helps', 'unclear')
    """
    found = spread(differences)
    if found.deviation is None:
        return Effect(tuple(differences), found, None, "unclear")
    half = t_quantile(found.n - 1) * found.deviation / math.sqrt(found.n)
    low, high = found.mean - half, found.mean + half
    above, below = _UP_HELPS if higher_is_better else _UP_HELPS[::-1]
    verdict: Verdict = above if low > 0 else below if high < 0 else "unclear"
    return Effect(tuple(differences), found, (low, high), verdict)


def spread(values: Sequence[float]) -> Spread:
    """Return mean, standard deviation, least and most."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(len(values), statistics.fmean(values), deviation, min(values), max(values))


def t_quantile(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t."""
    return _T[degrees - 1] if degrees <= len(_T) else _NORMAL


def _outcome(run: Run, metric: str, failure: str | None) -> Outcome:
    result = launch.read_result(run.run_dir.result)
    folder = str(run.run_dir.root)
    if result.get("outcome") != "finished":
        begun = run.run_dir.metrics.exists()
        return Outcome(run.seed, failure or ("interrupted" if begun else "not begun"), {}, {}, 0, folder)
    found: dict[Split, dict[str, Any] | None] = {
        "validation": _best_validation(run.run_dir, run.job.recipe.data.validation_split, result),
        "test": result.get("test"),
    }
    there = {split: values for split, values in found.items() if values}
    return Outcome(
        run.seed,
        "finished",
        {split: values[metric] for split, values in there.items()},
        {split: values["loss"] for split, values in there.items()},
        result["step"],
        folder,
    )


def _best_validation(run_dir: RunDir, split: str | None, result: dict[str, Any]) -> dict[str, Any] | None:
    """Return the evaluation of the best checkpoint: the one that the test split is evaluated with."""
    if split is None:
        return None
    lines = read_metrics(run_dir.metrics, "evaluation")
    return next(line for line in lines if line["split"] == split and line["step"] == result["best_step"])


def as_json(results: Sequence[CellResult]) -> list[dict[str, Any]]:
    """Return plain values."""
    return [asdict(result) for result in results]
