"""`megabatch prune --sensitivity`: has the ranks prune one layer at a time and evaluate, and writes table and page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from megabatch.configs.cluster import Cluster
from megabatch.configs.engines import Ddp
from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.load import layered_tree, validate
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.prepare import check
from megabatch.launcher.study.page import document, header, table
from megabatch.launcher.study.process import require_local, run_study, say_stopping, scratch_run, without_tracking

SHARES = (0.25, 0.5, 0.75, 0.9)
_WIDTH, _HEIGHT = 260.0, 150.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 250.0, 28.0, 125.0
_STYLE = "\n.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .75rem; }\n"


def scan(
    run_dir: RunDir, job: Job, cluster: str, overrides: Sequence[str], name: str, keep: Sequence[str]
) -> dict[str, Any]:
    """Return what the ranks of a cluster found; the overrides are of its keys (`cluster.*`).

    Raises ConfigError and StudyFailedError.
    """
    if job.recipe.data.validation_split is None:
        problem = "evaluates the validation split, and the recipe of this run has none"
        raise ConfigError([Problem("--sensitivity", problem)])
    if job.recipe.pruning is not None:
        raise ConfigError([Problem("--sensitivity", f"{run_dir.root} is pruned already: name the run it came from")])
    of_cluster = [text.removeprefix("cluster.") for text in overrides]
    ranks = validate(Cluster, layered_tree(cluster, "clusters", of_cluster, "cluster."))
    recipe = job.recipe.model_copy(update={"averaging": None, "engine": Ddp()})
    job = without_tracking(job.model_copy(update={"recipe": recipe, "cluster": ranks}))
    require_local(job, "prune --sensitivity")
    shares = [0.5] if name == "n_of_m" else list(SHARES)
    settings = {"run": str(run_dir.root), "which": "best", "name": name, "shares": shares, "keep": list(keep)}
    with scratch_run() as scratch:
        return run_study(check(job).job, scratch, "sensitivity", settings, say_stopping)


def rows(found: dict[str, Any]) -> list[list[str]]:
    """Return a row for each layer: its name, and the metric with each share of it gone."""
    return [[layer, *(f"{value:.4f}" for value in values)] for layer, values in found["layers"].items()]


def columns(found: dict[str, Any]) -> list[str]:
    """Return the heads of the columns of `rows`."""
    return ["layer", *(f"{share:.0%}" for share in found["shares"])]


def write(found: dict[str, Any], run_dir: RunDir, name: str) -> Path:
    """Write the numbers as JSON and a page with a plot for each layer; return the page."""
    file = run_dir.root / f"sensitivity-{name}.html"
    file.with_suffix(".json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    file.write_text(page(found, run_dir.root.name, name), encoding="utf-8")
    return file


def page(found: dict[str, Any], run: str, name: str) -> str:
    """Return the page: one plot for each layer, all with the same axes, and the table."""
    figures = [("pruning", name), (f"whole network, {found['metric']}", f"{found['base']:.4f}")]
    values = [value for of_layer in found["layers"].values() for value in of_layer]
    span = min([found["base"], *values]), max([found["base"], *values])
    panels = "\n".join(
        f'<div class="plot">{_panel(layer, [(0.0, found["base"]), *zip(found["shares"], of_layer, strict=True)], span)}'
        "</div>"
        for layer, of_layer in found["layers"].items()
    )
    text = "<p>One layer is pruned at a time, without training. Across: the share of it that is gone.</p>"
    body = f'{header(f"Sensitivity of {run}", figures)}\n{text}\n<div class="panels">{panels}</div>\n'
    return document(f"Sensitivity of {run}", body + table(columns(found), rows(found)), _STYLE)


def _panel(layer: str, points: Sequence[tuple[float, float]], span: tuple[float, float]) -> str:
    low, high = span
    height = (high - low) or 1.0

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return _LEFT + (_RIGHT - _LEFT) * point[0], _BOTTOM - (_BOTTOM - _TOP) * (point[1] - low) / height

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, points))
    dots = "".join(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in map(place, points))
    return (
        f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{escape(layer)}">'
        f'<text x="{_LEFT}" y="16">{escape(layer)}</text>'
        f'<path class="grid" d="M{_LEFT} {_TOP}H{_RIGHT}M{_LEFT} {_BOTTOM}H{_RIGHT}"/>'
        f'<text x="{_LEFT - 5}" y="{_TOP + 5}" text-anchor="end">{high:.2f}</text>'
        f'<text x="{_LEFT - 5}" y="{_BOTTOM + 5}" text-anchor="end">{low:.2f}</text>'
        f'<text x="{_LEFT}" y="{_BOTTOM + 20}">0 %</text>'
        f'<text x="{_RIGHT}" y="{_BOTTOM + 20}" text-anchor="end">100 %</text>'
        f'<polyline class="line" points="{line}"/>{dots}</svg>'
    )
