"""What `megabatch study overfit` leaves: overfit.json, .csv, .svg and .html, and the table that it prints."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from megabatch.data.clean.write import write_text
from megabatch.launcher import launch
from megabatch.launcher.study.effects import Effect, effect, spread
from megabatch.launcher.study.overfit import TECHNIQUES, Study, train_result
from megabatch.launcher.study.overfit_picture import picture
from megabatch.launcher.study.page import document, header, table

METRIC = "top1"
_WIDTH = 150
COLUMNS = (
    "", "train %", "test %", "gap", "to the baseline", "", "parameters", "not zero", "1 image, ms", "32 images, ms"
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A technique: accuracy by seed on the samples it was trained on and on the test split, and one network's size."""

    label: str
    train: tuple[float, ...]
    test: tuple[float, ...]
    to_baseline: Effect | None
    size: dict[str, Any]

    @property
    def gap(self) -> tuple[float, ...]:
        """Return by how much training accuracy is above test accuracy, by seed."""
        return tuple(train - test for train, test in zip(self.train, self.test, strict=True))


def collect(study: Study, sizes: Sequence[dict[str, Any]]) -> list[Row]:
    """Read the results of all runs; the first row is the baseline."""
    rows: list[Row] = []
    for technique, size in zip(TECHNIQUES, sizes, strict=True):
        where = study.fused_dir if technique.fused else study.run_dir
        folders = [where(technique.recipe, number) for number in range(study.seeds)]
        job = study.jobs[technique.recipe]
        train = tuple(launch.read_result(train_result(job, folder))[METRIC] for folder in folders)
        test = tuple(launch.read_result(folder.result)["test"][METRIC] for folder in folders)
        differences = [one - other for one, other in zip(test, rows[0].test, strict=True)] if rows else []
        rows.append(Row(technique.label, train, test, effect(differences) if differences else None, size))
    return rows


def cells(row: Row) -> list[str]:
    """Return what stands in the table: means and standard deviations in percent, sizes of the first seed."""
    change = row.to_baseline
    half = f" ± {50 * (change.interval[1] - change.interval[0]):.2f}" if change and change.interval else ""
    return [
        row.label,
        _spread(row.train),
        _spread(row.test),
        f"{100 * spread(row.gap).mean:.2f}",
        f"{100 * change.spread.mean:+.2f}{half}" if change else "",
        change.verdict if change else "",
        f"{row.size['parameters']:,}",
        f"{row.size['nonzero']:,}",
        f"{row.size['milliseconds_1']:.2f}",
        f"{row.size['milliseconds_32']:.1f}",
    ]


def _spread(values: Sequence[float]) -> str:
    found = spread(values)
    return f"{100 * found.mean:.2f}" + (f" ± {100 * found.deviation:.2f}" if found.deviation is not None else "")


def print_table(rows: Sequence[Row]) -> None:
    """Print a line for each technique."""
    shown = Table(box=None, pad_edge=False, header_style="dim")
    for number, name in enumerate(COLUMNS):
        shown.add_column(name, justify="right" if number not in (0, 5) else "left", no_wrap=True)
    for row in rows:
        shown.add_row(*cells(row))
    console = Console()
    console.width = max(console.width, _WIDTH)  # a narrow terminal wraps the lines: nothing of the table is left out
    console.print(shown)


def write(study: Study, rows: Sequence[Row]) -> list[Path]:
    """Write the four files; return them."""
    base = next(iter(study.jobs.values()))
    values = {
        "format": "megabatch-study-overfit-1",
        "version": version("megabatch"),
        "recipes": {name: job.recipe.model_dump(mode="json") for name, job in study.jobs.items()},
        "data_fingerprint": base.data_fingerprint,
        "seeds": study.seeds,
        "members": study.members,
        "techniques": [asdict(row) for row in rows],
    }
    drawn = picture([(row.label, row.train, row.test) for row in rows])
    texts = {
        "json": json.dumps(values, indent=1),
        "csv": _csv(rows),
        "svg": drawn,
        "html": _page(study, rows, drawn),
    }
    files = [study.folder / f"overfit.{ending}" for ending in texts]
    for file, text in zip(files, texts.values(), strict=True):
        write_text(file, text)
    return files


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["technique", "number", "train_top1", "test_top1"])
    for row in rows:
        lines.writerows([row.label, n, *values] for n, values in enumerate(zip(row.train, row.test, strict=True)))
    return text.getvalue().rstrip("\n")


def _page(study: Study, rows: Sequence[Row], drawn: str) -> str:
    baseline, best = rows[0], max(rows, key=lambda row: spread(row.test).mean)
    figures = [
        ("baseline, train", f"{spread(baseline.train).mean:.1%}"),
        ("baseline, test", f"{spread(baseline.test).mean:.1%}"),
        (f"test, {best.label}", f"{spread(best.test).mean:.1%}"),
        ("seeds", str(study.seeds)),
    ]
    body = [
        header("What helps a network that overfits", figures),
        f"<main><section><h2>Training and test accuracy</h2><p>{_EXPLANATION}</p>",
        f'<div class="plot wide">{drawn}</div></section>',
        f"<section><h2>All numbers</h2>{table(COLUMNS, [cells(row) for row in rows])}</section></main>",
        "<footer><p>Every run is a folder beside this page. All: overfit.json; by seed: overfit.csv.</p></footer>",
    ]
    return document("What helps a network that overfits", "\n".join(body))


_EXPLANATION = (
    "A ring is the accuracy on the training samples, a disc that on the test split, a small dot a seed; the bar "
    "between them is the gap. A technique helps or hurts where the 95 % interval of its differences to the baseline, "
    "taken seed by seed, leaves out zero (Student's t); all else is unclear, which more --seeds can settle."
)
