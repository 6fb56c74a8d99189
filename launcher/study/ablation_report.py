"""What `megabatch ablate` leaves: ablation.json, ablation.csv, ablation.html, and the table on the terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from megabatch.configs.targets import METRICS, Metric
from megabatch.data.clean.write import write_text
from megabatch.launcher.study.ablation import Ablation
from megabatch.launcher.study.ablation_page import page
from megabatch.launcher.study.effects import SPLITS, CellResult, Effect, Spread, as_json

_COLOURS = {"helps": "green", "hurts": "red", "unclear": "dim"}


def write_report(ablation: Ablation, results: Sequence[CellResult]) -> list[Path]:
    """Write the three files; return them."""
    values: dict[str, Any] = {
        "format": "megabatch-ablation-1",
        "version": version("megabatch"),
        "recipe": ablation.base.recipe.model_dump(mode="json"),
        "data_fingerprint": ablation.base.data_fingerprint,
        "seeds": ablation.seeds,
        "same_as_base": [cell.label for cell in ablation.same_as_base],
        "samples": ablation.samples,
        "metric": results[0].metric,
        "cells": as_json(results),
    }
    files = [ablation.folder / f"ablation.{ending}" for ending in ("json", "csv", "html")]
    texts = (json.dumps(values, indent=1), _csv(results), page(ablation, results))
    for file, text in zip(files, texts, strict=True):
        write_text(file, text)
    return files


def _csv(results: Sequence[CellResult]) -> str:
    """Return a line for each run."""
    text = io.StringIO()
    columns = [
        "cell",
        "seed",
        "status",
        *(f"{split}_{what}" for split in SPLITS for what in (results[0].metric, "loss")),
    ]
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*columns, "steps", "folder"])
    for result in results:
        for one in result.outcomes:
            numbers = [values.get(split, "") for split in SPLITS for values in (one.values, one.loss)]
            rows.writerow([result.label, one.seed, one.status, *numbers, one.steps, one.folder])
    return text.getvalue().rstrip("\n")


def print_table(results: Sequence[CellResult]) -> None:
    """Print the metric and differences to the base, largest gain on validation (else test) first."""
    shown = [split for split in SPLITS if any(split in result.values for result in results)]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("cell", overflow="fold", min_width=18)
    metric = METRICS[results[0].metric]
    for name in (column for split in shown for column in (f"{split} {metric.unit}", "to base")):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for result in ordered(results):
        numbers = [
            text
            for split in shown
            for text in (average(metric, result.values.get(split)), difference(metric, result.effects.get(split)))
        ]
        table.add_row(escape(_name(result)), *numbers, _verdict(result))
    Console().print(table)
    if any(result.effects for result in results):
        unit = "in percentage points " if metric.is_share else ""
        typer.echo(f"to base: mean difference {unit}over the seeds, ± half of its 95 % interval")


def ordered(results: Sequence[CellResult]) -> list[CellResult]:
    """Return the base first, then from the largest gain to the largest loss."""
    sign = 1 if METRICS[results[0].metric].higher_is_better else -1

    def gain(result: CellResult) -> float:
        effects = [result.effects[split] for split in SPLITS if split in result.effects]
        return sign * effects[0].spread.mean if effects else float("-inf")

    return [results[0], *sorted(results[1:], key=gain, reverse=True)]


def average(metric: Metric, found: Spread | None) -> str:
    """Return the mean as "96.41", shares in percent."""
    return "-" if found is None else metric.cell(found.mean)


def difference(metric: Metric, found: Effect | None) -> str:
    """Return "+0.37 ± 0.47": the mean, of shares in percentage points, and half of its 95 % interval."""
    if found is None:
        return ""
    half = f" ± {metric.cell((found.interval[1] - found.interval[0]) / 2)}" if found.interval else ""
    return f"{metric.cell(found.spread.mean, sign=True)}{half}"


def _name(result: CellResult) -> str:
    finished = sum(one.status == "finished" for one in result.outcomes)
    missing = f" ({finished} of {len(result.outcomes)} runs)" if finished < len(result.outcomes) else ""
    return result.label + missing


def _verdict(result: CellResult) -> str:
    effects = [result.effects[split] for split in SPLITS if split in result.effects]
    if not effects:
        causes = sorted({one.status for one in result.outcomes if one.status != "finished"})
        return f"[red]{escape('; '.join(causes))}[/]" if causes else ""
    return f"[{_COLOURS[effects[0].verdict]}]{effects[0].verdict}[/]"
