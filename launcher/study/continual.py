"""What continual learning has learned and forgotten: the accuracies after each stage, and the measures made of them.

R[i][j] is the accuracy on the test data of stage j after stage i, among all classes known after stage i; R[i][i+1] is
that of the network as stage i+1 begins with it, with outputs for its classes that were not trained yet; b[j] is that
of a network that was never trained. T stages; Lopez-Paz and Ranzato 2017, equations 2 to 4, and Chaudhry et al. 2018,
equations 3 and 4:

    average accuracy    1/T sum_j R[T][j]
    backward transfer   1/(T-1) sum_{j<T} (R[T][j] - R[j][j])
    forward transfer    1/(T-1) sum_{j>1} (R[j-1][j] - b[j])
    forgetting          1/(T-1) sum_{j<T} (max_{l<T} R[l][j] - R[T][j])
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from megabatch.configs.load import read_job
from megabatch.configs.new_file import write_whole
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.study.page import document, header, table

_WIDTH, _HEIGHT = 720.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 60.0, 560.0, 20.0, 250.0
_LINE = 16.0  # the height of a label


@dataclass(frozen=True)
class Known:
    """What was measured after some stages. The lists count stages from 0; all accuracies are shares of 1.

    `accuracy[i][j]` is R above for j up to i, `before[j]` is R[j-1][j] and `random[j]` is b[j].
    """

    split: str
    stages: tuple[str, ...]
    samples: tuple[int, ...]
    accuracy: tuple[tuple[float, ...], ...]
    before: tuple[float, ...]
    random: tuple[float, ...]

    def old(self, stage: int) -> float | None:
        """Return the accuracy on the test data of all stages before, after a stage; None after the first."""
        return self._mean(stage, range(stage))

    def new(self, stage: int) -> float:
        """Return the accuracy on the test data of a stage, after it."""
        return self.accuracy[stage][stage]

    def all(self, stage: int) -> float:
        """Return the accuracy on the test data of all stages so far, after a stage."""
        found = self._mean(stage, range(stage + 1))
        assert found is not None
        return found

    def _mean(self, stage: int, which: range) -> float | None:
        if not which:
            return None
        right = sum(self.accuracy[stage][j] * self.samples[j] for j in which)
        return right / sum(self.samples[j] for j in which)

    def measures(self) -> dict[str, float | None]:
        """Return the measures after the last of these stages; None for those that one stage alone does not have."""
        last, earlier = self.accuracy[-1], range(len(self.accuracy) - 1)
        lost = [max(row[j] for row in self.accuracy[j:-1]) - last[j] for j in earlier]
        return {
            "average_accuracy": sum(last) / len(last),
            "forgetting": _mean_of(lost),
            "backward_transfer": _mean_of([last[j] - self.accuracy[j][j] for j in earlier]),
            "forward_transfer": _mean_of([self.before[j + 1] - self.random[j + 1] for j in earlier]),
        }


def _mean_of(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def known(run_dir: RunDir, stages: int) -> Known:
    """Return what was measured after the first so many stages."""
    found: list[dict[str, Any]] = []
    names = []
    for number in range(1, stages + 1):
        stage = run_dir.stage(number)
        found.append(json.loads(stage.stage_result.read_text(encoding="utf-8")))
        brought = read_job(stage.job).recipe.data.sources[-1]
        names.append(f"{brought.path}: {', '.join(brought.classes)}")
    return Known(
        split=found[0]["split"], stages=tuple(names), samples=tuple(found[-1]["samples"]),
        accuracy=tuple(tuple(one["accuracy"]) for one in found),
        before=tuple(one["before"] for one in found), random=tuple(one["random"] for one in found),
    )  # fmt: skip


def columns(found: Known) -> list[str]:
    """Return the heads of the columns of `rows`."""
    return ["after stage", *(f"on {number}" for number in range(1, len(found.stages) + 1)), "old", "new", "all"]


def rows(found: Known) -> list[list[str]]:
    """Return a row for each stage: the accuracy on the test data of each, on all old, on the new, and on all."""
    number = len(found.stages)
    result = []
    for stage, accuracies in enumerate(found.accuracy):
        untrained = [f"({found.before[stage + 1]:.1%})"] if stage + 1 < number else []
        cells = [*(f"{value:.1%}" for value in accuracies), *untrained]
        cells += [""] * (number - len(cells))
        old = found.old(stage)
        result.append(
            [
                str(stage + 1), *cells, "" if old is None else f"{old:.1%}", f"{found.new(stage):.1%}",
                f"{found.all(stage):.1%}",
            ]
        )  # fmt: skip
    return result


def lines(found: Known) -> list[str]:
    """Return what is printed beside the table: the measures, in points of accuracy."""
    return [
        f"{name.replace('_', ' ')}: {value:.1%}" if name == "average_accuracy" else
        f"{name.replace('_', ' ')}: {100 * value:+.1f} points"
        for name, value in found.measures().items()
        if value is not None
    ]  # fmt: skip


def show(found: Known) -> None:
    """Print the table and the measures."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="dim")
    for number, column in enumerate(columns(found)):
        shown.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows(found):
        shown.add_row(*row)
    console = Console()
    console.print(f"\naccuracy on the {found.split} data of each stage, among all classes known by then")
    console.print(shown)
    for line in lines(found):
        console.print(line, highlight=False)


def page_of(run_dir: RunDir) -> Path:
    """Return the page of a run with stages."""
    return run_dir.continual.with_suffix(".html")


def write(found: Known, run_dir: RunDir) -> None:
    """Write RUN_DIR/continual.json and the page."""
    count = range(len(found.stages))
    values = {
        "format": "megabatch-continual-1", "split": found.split,
        "stages": [{"brings": found.stages[n], "samples": found.samples[n]} for n in count],
        "accuracy": found.accuracy, "before": found.before, "random": found.random,
        "old": [found.old(n) for n in count], "new": [found.new(n) for n in count],
        "all": [found.all(n) for n in count], **found.measures(),
    }  # fmt: skip
    write_whole(run_dir.continual, json.dumps(values, indent=1))
    write_whole(page_of(run_dir), page(found, run_dir.root.name))


def page(found: Known, run: str) -> str:
    """Return the page: a line for the test data of each stage, from the stage that brings them on, and the table."""
    title = f"Continual learning: {run}"
    figures = [(line.partition(": ")[0], line.partition(": ")[2]) for line in lines(found)]
    brought = "".join(f"<li>{escape(name)}</li>" for name in found.stages)
    text = (
        f"<p>Accuracy on the {escape(found.split)} data of each stage, among all classes known by then. In brackets: "
        "before the stage has trained on them.</p>"
    )
    body = (
        f'{header(title, figures)}\n<main><section>{text}<div class="plot wide">{_plot(found)}</div></section>\n'
        f"<section>{table(columns(found), rows(found))}</section>\n"
        f"<section><h2>Stages</h2><ol>{brought}</ol></section></main>"
    )
    return document(title, body)


def _plot(found: Known) -> str:
    last = max(len(found.stages) - 1, 1)

    def place(stage: int, accuracy: float) -> tuple[float, float]:
        return _LEFT + (_RIGHT - _LEFT) * stage / last, _BOTTOM - (_BOTTOM - _TOP) * accuracy

    parts = [
        f'<path class="grid" d="M{_LEFT} {y:.1f}H{_RIGHT}"/>'
        f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{share:.0%}</text>'
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
        for y in (place(0, share)[1],)
    ]
    parts += [
        f'<text x="{place(stage, 0)[0]:.1f}" y="{_BOTTOM + 22}" text-anchor="middle">after stage {stage + 1}</text>'
        for stage in range(len(found.stages))
    ]
    free = -math.inf  # where the next label has room
    for j in sorted(range(len(found.stages)), key=lambda j: -found.accuracy[-1][j]):
        points = [place(i, found.accuracy[i][j]) for i in range(j, len(found.stages))]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dots = "".join(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in points)
        height = max(points[-1][1] + 5, free)
        free = height + _LINE
        parts.append(
            f'<polyline class="line" points="{line}"/>{dots}'
            f'<text x="{points[-1][0] + 10:.1f}" y="{height:.1f}">on stage {j + 1}</text>'
        )
    label = "accuracy on the test data of each stage over the stages"
    return f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
