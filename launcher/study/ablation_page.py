"""ablation.html: how much each technique helps on validation and test, as a plot, and every number below it.

A row of the plot is a picture as wide as its column with all places in percent, so that it is sharp at any width;
names and numbers beside it are text of the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from megabatch.configs.targets import METRICS, Metric
from megabatch.launcher.study.ablation import Ablation
from megabatch.launcher.study.curve import ticks
from megabatch.launcher.study.effects import SPLITS, CellResult, Effect, Split
from megabatch.launcher.study.page import document, header, table

_STYLE = """
.panels { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); }
.plot h3 { font-size: 1rem; margin: 0 0 .5rem; }
.row { display: grid; grid-template-columns: minmax(7rem, 30%) 1fr 8.5rem; gap: .25rem .75rem; align-items: center; }
.row + .row { border-top: 1px solid var(--line); }
.row .name { overflow-wrap: anywhere; font-size: .875rem; line-height: 1.3; padding: .3rem 0; }
.row .number { text-align: right; font-size: .875rem; font-variant-numeric: tabular-nums; line-height: 1.3; }
.row .number span { display: block; color: var(--quiet); font-size: .75rem; }
.row svg { height: 40px; }
.row.axis svg { height: 22px; }
.row .helps { color: var(--good); } .row .hurts { color: var(--warn); }
:root { --good: #1a7f4b; } @media (prefers-color-scheme: dark) { :root { --good: #6fd3a0; } }
svg .zero { stroke: var(--quiet); stroke-width: 1.5; }
svg .interval { stroke: var(--text); stroke-width: 2; }
svg .seed { fill: var(--accent); opacity: .7; }
svg .mean { fill: var(--text); }
svg .mean.helps { fill: var(--good); } svg .mean.hurts { fill: var(--warn); }
.legend { margin: .75rem 0 0; color: var(--quiet); font-size: .8125rem; }
@media (max-width: 40rem) {
  .row { grid-template-columns: 1fr 8.5rem; padding-top: .3rem; }
  .row .name { order: 0; padding: 0; } .row .number { order: 1; } .row svg { order: 2; grid-column: 1 / -1; }
  .row.axis .name, .row.axis .number { display: none; }
}
"""
_TITLES: dict[Split, str] = {"validation": "Validation", "test": "Test"}


def page(ablation: Ablation, results: Sequence[CellResult]) -> str:
    """Return the whole page."""
    recipe, metric = ablation.base.recipe, METRICS[results[0].metric]
    finished = sum(one.status == "finished" for result in results for one in result.outcomes)
    figures = [
        ("runs finished", f"{finished} of {len(ablation.runs)}"),
        ("cells", str(len(ablation.cells))),
        ("seeds each", str(len(ablation.seeds))),
        ("samples in all", f"{ablation.samples:,}"),
    ]
    panels = [_panel(results, split) for split in SPLITS if any(split in result.effects for result in results)]
    body = [
        header(f"Ablation of {recipe.name}", figures),
        "<main><section><h2>What each change does</h2>",
        f"<p>{escape(_explanation(metric, recipe.metric))}</p>",
        f'<div class="panels">{"".join(panels)}</div>'
        if panels
        else "<p>No cell can be compared with the base yet.</p>",
        "</section>",
        f"<section><h2>{escape(metric.title)} of each cell</h2>{_summary(results)}{_same(ablation)}</section>",
        f"<section><h2>Every run</h2>{_runs(results)}</section></main>",
        f"<footer><p>{escape(_footer(ablation))}</p></footer>",
    ]
    return document(f"Ablation of {recipe.name}", "\n".join(body), _STYLE)


def _explanation(metric: Metric, watched: str) -> str:
    unit = ", in percentage points" if metric.is_share else ""
    direction = "" if metric.higher_is_better else " (lower is better)"
    return (
        f"Difference in {metric.title}{direction} to the base recipe{unit}, seed by seed. A small dot is a seed, "
        "the large one their mean, the bar its 95 % interval (Student's t). A change helps or hurts where the bar "
        "leaves out zero; all else is unclear, which more --seeds can settle. Of many changes without any effect, one "
        "in twenty looks as if it had one. Both splits are measured at the checkpoint with the best validation "
        f"{watched}."
    )


def _panel(results: Sequence[CellResult], split: Split) -> str:
    found = [(result.label, result.effects[split]) for result in results if split in result.effects]
    metric = METRICS[results[0].metric]
    found.sort(key=lambda pair: pair[1].spread.mean, reverse=metric.higher_is_better)
    low, high = span([effect for _, effect in found], metric)
    rows = [_row(label, effect, metric, (low, high)) for label, effect in found]
    return f'<div class="plot"><h3>{_TITLES[split]}</h3>{"".join(rows)}{_axis(low, high)}</div>'


def span(effects: Sequence[Effect], metric: Metric) -> tuple[float, float]:
    """Return the ends of the axis: zero, all seeds, and bars up to twice the largest difference.

    Of shares they are in percentage points. With two or three seeds a bar can be so long that nothing else would be
    seen; it is cut off there.
    """
    seeds = [metric.factor * value for effect in effects for value in effect.differences]
    most = 2 * max(abs(value) for value in seeds)
    ends = [metric.factor * end for effect in effects for end in effect.interval or ()]
    values = [0.0, *seeds, *(min(max(end, -most), most) for end in ends)]
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _row(label: str, effect: Effect, metric: Metric, ends_of_axis: tuple[float, float]) -> str:
    low, high = ends_of_axis
    factor, mean = metric.factor, metric.cell(effect.spread.mean, sign=True)
    parts = [_line(0.0, low, high, "zero")]
    if effect.interval is not None:
        ends = [_percent(factor * end, low, high) for end in effect.interval]
        parts.append(f'<line class="interval" x1="{ends[0]}" x2="{ends[1]}" y1="50%" y2="50%"/>')
    parts += [
        f'<circle class="seed" cx="{_percent(factor * value, low, high)}" cy="50%" r="4"/>'
        for value in effect.differences
    ]
    place = _percent(factor * effect.spread.mean, low, high)
    parts.append(f'<circle class="mean {effect.verdict}" cx="{place}" cy="50%" r="6"/>')
    interval = " to ".join(metric.cell(end, sign=True) for end in effect.interval or ()) or "one seed"
    described = escape(f"{label}: {mean} {'percentage points' if metric.is_share else metric.title}, {effect.verdict}")
    return (
        f'<div class="row"><div class="name">{_breakable(label)}</div>'
        f'<svg role="img" aria-label="{described}">{"".join(parts)}</svg>'
        f'<div class="number {effect.verdict}">{mean}, {effect.verdict}<span>{interval}</span></div></div>'
    )


def _breakable(label: str) -> str:
    """Let a long key go on in the next line after a dot or an underscore."""
    return escape(label).replace(".", ".<wbr>").replace("_", "_<wbr>")


def _axis(low: float, high: float) -> str:
    marks = "".join(
        f'<text x="{_percent(tick, low, high)}" y="16" text-anchor="middle">{tick:{"+" if tick else ""}g}</text>'
        for tick in ticks(low, high)
    )
    strip = f'<svg aria-hidden="true">{marks}</svg>'
    return f'<div class="row axis"><div class="name"></div>{strip}<div class="number"></div></div>'


def _line(x: float, low: float, high: float, kind: str) -> str:
    place = _percent(x, low, high)
    return f'<line class="{kind}" x1="{place}" x2="{place}" y1="0" y2="100%"/>'


def _percent(value: float, low: float, high: float) -> str:
    part = (min(max(value, low), high) - low) / (high - low)
    return f"{100 * part:.2f}%"


def _summary(results: Sequence[CellResult]) -> str:
    shown = [split for split in SPLITS if any(split in result.values for result in results)]
    columns = ["Cell", "Runs"]
    for split in shown:
        columns += [
            f"{_TITLES[split]}, mean {METRICS[results[0].metric].unit}",
            "Deviation",
            "Least",
            "Most",
            "Difference",
        ]
    rows = []
    for result in results:
        row = [result.label, f"{sum(one.status == 'finished' for one in result.outcomes)} of {len(result.outcomes)}"]
        for split in shown:
            row += _cells(result, split)
        rows.append(row)
    return table(columns, rows)


def _cells(result: CellResult, split: Split) -> list[str]:
    found, effect, metric = result.values.get(split), result.effects.get(split), METRICS[result.metric]
    if found is None:
        return ["", "", "", "", ""]
    deviation = metric.cell(found.deviation) if found.deviation is not None else ""
    change = metric.cell(effect.spread.mean, sign=True) if effect else ""
    return [metric.cell(found.mean), deviation, metric.cell(found.least), metric.cell(found.most), change]


def _same(ablation: Ablation) -> str:
    labels = ", ".join(cell.label for cell in ablation.same_as_base)
    return f'<p class="quiet">The base has this already: {escape(labels)}.</p>' if labels else ""


def _runs(results: Sequence[CellResult]) -> str:
    shown = [split for split in SPLITS if any(split in result.values for result in results)]
    metric = METRICS[results[0].metric]
    columns = [
        "Cell",
        "Seed",
        "Status",
        "Steps",
        *(f"{_TITLES[split]} {what}" for split in shown for what in (metric.unit, "loss")),
    ]
    rows = []
    for result in results:
        for one in result.outcomes:
            numbers = []
            for split in shown:
                there = split in one.values
                numbers += [metric.cell(one.values[split]), f"{one.loss[split]:.4f}"] if there else ["", ""]
            rows.append([result.label, str(one.seed), one.status, f"{one.steps:,}", *numbers])
    return table(columns, rows)


def _footer(ablation: Ablation) -> str:
    return f"Runs: {ablation.folder}/runs. All numbers: ablation.json; a line for each run: ablation.csv."
