"""What `megabatch tune` leaves: JSON and a page, and the text for the terminal with the line to paste."""

from __future__ import annotations

import json
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from megabatch.configs.job import Job
from megabatch.configs.recipe import Recipe
from megabatch.data.clean.write import write_text
from megabatch.launcher.study import curve
from megabatch.launcher.study.batch_size import BatchSizes, Probe
from megabatch.launcher.study.curve import Curve
from megabatch.launcher.study.lr_range import SAFE_PART, LrRange, as_base_learning_rate
from megabatch.launcher.study.page import document, header, table

_MIB = 1 << 20
_ENDED = {
    "high": "the highest rate was reached",
    "diverged": "the loss rose to four times its lowest value",
    "not finite": "the loss was no number any more",
}


def write_lr(recipe: Recipe, result: LrRange, folder: Path) -> list[Path]:
    """Write NAME-lr.json and NAME-lr.html; return the files."""
    values = {"format": "megabatch-tune-lr-1", "recipe": recipe.model_dump(mode="json"), **asdict(result)}
    values |= {f"{name}_base_learning_rate": base for name, _, base in _suggestions(recipe, result)}
    rows = [
        (name, f"{rate:.3g}", f"optimizer.base_learning_rate={base:g}")
        for name, rate, base in _suggestions(recipe, result)
    ]
    body = [
        header(f"Learning-rate range test: {recipe.name}", _lr_figures(recipe, result)),
        "<main><section><h2>Loss over the learning rate</h2>",
        f"<p>{escape(_lr_rule(result))}</p>",
        f'<div class="plot wide">{curve.svg(_lr_curve(result), "loss over learning rate")}</div></section>',
        "<section><h2>Suggestions</h2>",
        table(["Rule", "Learning rate", "Recipe line"], rows) if rows else f"<p>{escape(result.problem)}</p>",
        "</section></main>",
    ]
    return _write(folder, f"{recipe.name}-lr", values, document(f"{recipe.name}: learning rate", "\n".join(body)))


def lr_text(recipe: Recipe, result: LrRange) -> str:
    """Return plot, suggestions and the line to paste."""
    lines = [curve.text(_lr_curve(result)), "", f"ended after {len(result.rates)} steps: {_ENDED[result.ended]}"]
    if result.problem:
        return "\n".join([*lines, f"no suggestion: {result.problem}"])
    for name, rate, base in _suggestions(recipe, result):
        lines.append(f"{name:28} {rate:<10.3g} optimizer.base_learning_rate={base:g}")
    safe = as_base_learning_rate(recipe, result.safe or 0.0)
    return "\n".join(
        [*lines, "", "into the recipe, or onto the command line:", f"  optimizer.base_learning_rate={safe:g}"]
    )


def _suggestions(recipe: Recipe, result: LrRange) -> list[tuple[str, float, float]]:
    """Return name, learning rate of a step, and the base learning rate that leads to it."""
    named = (("steepest", result.steepest), ("minimum", result.minimum), ("safe", result.safe))
    return [(name, rate, as_base_learning_rate(recipe, rate)) for name, rate in named if rate is not None]


def _lr_rule(result: LrRange) -> str:
    return (
        "Every step has a higher learning rate than the one before; the thin line is the loss of each step, the thick "
        "one its centred mean. steepest: where that mean falls fastest. minimum: where it is lowest. safe: the minimum "
        f"divided by {SAFE_PART:g}, the suggestion. The test ended when {_ENDED[result.ended]}."
    )


def _lr_figures(recipe: Recipe, result: LrRange) -> list[tuple[str, str]]:
    optimizer = recipe.optimizer
    figures = [("steps", f"{len(result.rates):,}"), ("samples a step", f"{recipe.batch.global_batch:,}")]
    figures.append(("optimizer", optimizer.name))
    return [*figures, ("safe learning rate", f"{result.safe:.3g}")] if result.safe else figures


def _lr_curve(result: LrRange) -> Curve:
    marks = [("steepest", result.steepest), ("minimum", result.minimum), ("safe", result.safe)]
    named = sorted((rate, name) for name, rate in marks if rate is not None)
    points = tuple(zip(result.rates, result.smoothed, strict=True))
    faint = tuple(zip(result.rates, result.losses, strict=True))
    return Curve(points, "learning rate", "loss", named, faint)


def write_batch(job: Job, result: BatchSizes, folder: Path) -> list[Path]:
    """Write NAME-batch.json and NAME-batch.html; return the files."""
    recipe = job.recipe
    values = {
        "format": "megabatch-tune-batch-1",
        "recipe": recipe.model_dump(mode="json"),
        "device": job.cluster.device,
        **asdict(result),
    }
    figures = [
        ("largest that fits", f"{result.largest:,}{'+' if result.bounded else ''}"),
        ("as fast as any from", f"{result.saturated:,}"),
        ("device", job.cluster.device),
    ]
    body = [
        header(f"Micro-batch: {recipe.name}", figures),
        "<main><section><h2>Images a second over the micro-batch</h2>",
        f"<p>{escape(_batch_rule(result))}</p>",
        f'<div class="plot wide">{curve.svg(_batch_curve(result), "images a second over micro-batch")}</div></section>',
        "<section><h2>Every size tried</h2>",
        table(["Micro-batch", "Images a second", "Peak memory, MiB"], [_cells(probe) for probe in result.probes]),
        f"</section><section><h2>Recipe line</h2><pre>batch.micro_batch={result.saturated}</pre></section></main>",
    ]
    return _write(folder, f"{recipe.name}-batch", values, document(f"{recipe.name}: micro-batch", "\n".join(body)))


def batch_text(result: BatchSizes) -> str:
    """Return the table, the plot and the line to paste."""
    lines = [f"{'micro-batch':>12} {'images/s':>12} {'peak MiB':>10}"]
    for probe in result.probes:
        size, rate, memory = _cells(probe)
        lines.append(f"{size:>12} {rate:>12} {memory:>10}")
    more = " (all that was tried; memory was not the limit)" if result.bounded else ""
    lines += ["", curve.text(_batch_curve(result)), "", f"largest that fits: {result.largest:,}{more}"]
    lines.append(f"smallest with 95 % of the best rate: {result.saturated:,}")
    return "\n".join(
        [*lines, "", "into the recipe, or onto the command line:", f"  batch.micro_batch={result.saturated}"]
    )


def _batch_rule(result: BatchSizes) -> str:
    return (
        "Forward, backward and update of steps of two micro-batches, on pixels that lie ready, so without loading. "
        "Suggested is the smallest size with 95 % of the best rate: a larger one gains next to nothing, and a "
        "network with batch norm normalizes over the micro-batch, so its size is part of the recipe."
    )


def _batch_curve(result: BatchSizes) -> Curve:
    rates = [(float(p.micro_batch), p.images_per_second) for p in result.probes if p.images_per_second is not None]
    marks = sorted(
        [
            (float(result.saturated), f"95 % of the best: {result.saturated}"),
            (float(result.largest), f"largest: {result.largest}"),
        ]
    )
    return Curve(rates, "micro-batch", "images a second", marks, dots=True, from_zero=True)


def _cells(probe: Probe) -> tuple[str, str, str]:
    if probe.images_per_second is None or probe.peak_bytes is None:
        return f"{probe.micro_batch:,}", "does not fit", ""
    return f"{probe.micro_batch:,}", f"{probe.images_per_second:,.1f}", f"{probe.peak_bytes / _MIB:,.0f}"


def _write(folder: Path, name: str, values: dict[str, Any], page: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.json", folder / f"{name}.html"]
    write_text(files[0], json.dumps(values, indent=1))
    write_text(files[1], page)
    return files
