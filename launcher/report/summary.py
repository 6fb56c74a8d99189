"""The head of the page: what came out, what it took, and what ran, as pairs of a name and a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megabatch.configs.durations import duration
from megabatch.configs.targets import METRICS
from megabatch.data.sources.places import visible
from megabatch.launcher.report import words
from megabatch.launcher.report.run import Run


@dataclass(frozen=True)
class Card:
    """A figure, its name, and what else is to know of it."""

    name: str
    figure: str
    more: str = ""


def cards(run: Run, price: float | None = None) -> list[Card]:
    """Return the figures that a reader looks for first."""
    if stages := run.run_dir.stages():
        return [Card("stages", str(len(stages)), "begun; each has a page of its own")]
    found = [*_scores(run), _progress(run), _time(run), _device_hours(run)]
    if price is not None:
        cost = run.device_hours * price
        found.append(Card("cost", f"{cost:,.2f}", f"at {price:g} a device-hour"))
    rate = _median(run, "samples_per_second")
    if rate is not None:
        wait = _median(run, "data_wait_share")
        more = "" if wait is None else f"{wait:.1%} of a step waits for data"
        found.append(Card("throughput", words.quantity(rate, "rate"), f"samples, median; {more}" if more else "median"))
    return found


def facts(run: Run) -> list[tuple[str, str]]:
    """Return what ran, where, from which code, as names and texts."""
    recipe, cluster = run.recipe, run.cluster
    data = recipe.get("data") or {}
    places = [data.get("path"), *(source.get("path") for source in data.get("sources") or ())]
    batch, optimizer = recipe.get("batch") or {}, recipe.get("optimizer") or {}
    found = [
        ("recipe", run.name),
        ("data", ", ".join(visible(str(place)) for place in places if place)),
        ("model", (recipe.get("model") or {}).get("name")),
        ("optimizer", f"{optimizer.get('name')}, global batch {batch.get('global_batch')}"),
        ("cluster", f"{cluster.get('name')}: {_machines(run)}"),
        ("engine", f"{(recipe.get('engine') or {}).get('name')}, {(recipe.get('precision') or {}).get('name')}"),
        ("git", git_state(run)),
        ("versions", _versions(run)),
        ("seed", recipe.get("seed")),
    ]
    return [(name, words.plain(text)) for name, text in found if text not in (None, "")]


def best_validation(run: Run) -> dict[str, Any] | None:
    """Return the evaluation with the best main metric on a split that is not test."""
    lines = [line for line in run.metrics.evaluations if line.get("split") != "test"]
    for name, metric in METRICS.items():
        known = [line for line in lines if isinstance(line.get(name), int | float)]
        if known:
            pick = max if metric.higher_is_better else min
            return pick(known, key=lambda line: float(line[name]))
    return None


def git_state(run: Run) -> str:
    """Return commit, branch and what was not committed when the run was started, in words; empty where unknown."""
    git = next((line["git"] for line in run.launches if line.get("git")), None)
    if git is None:
        return ""
    changed = int(git.get("changed") or 0)
    clean = "nothing changed since" if not changed else f"{changed} file{'s' * (changed > 1)} not committed"
    return f"{str(git.get('commit'))[:12]} on {git.get('branch')}, {clean}"


def _scores(run: Run) -> list[Card]:
    found = []
    tested = [line for line in run.metrics.evaluations if line.get("split") == "test"]
    test = run.result.get("test") or (tested[-1] if tested else {})
    if name := _main_metric(test):
        step = int(test.get("checkpoint_step") or test.get("step") or 0)
        more = f"of {test.get('samples', 0):,} samples, step {step:,}"
        found.append(Card(f"test {METRICS[name].title}", METRICS[name].shown(float(test[name])), more))
    best = best_validation(run) or {}
    if name := _main_metric(best):
        shown = METRICS[name].shown(float(best[name]))
        found.append(Card(f"{best.get('split')} {METRICS[name].title}", shown, f"the best, step {int(best['step']):,}"))
    loss = run.metrics.steps.last("loss")
    if loss is not None and not found:
        found.append(Card("training loss", f"{loss:.4g}", "of the last step"))
    return found


def _main_metric(line: dict[str, Any]) -> str | None:
    return next((name for name in METRICS if isinstance(line.get(name), int | float)), None)


def _progress(run: Run) -> Card:
    step, total = run.metrics.steps.last("step"), run.total_steps
    samples = run.metrics.steps.last("samples_seen")
    done = f"{step:,.0f}" if step is not None else "0"
    more = "" if samples is None else f"{samples:,.0f} samples"
    if total and step is not None and step < total:
        return Card("steps", f"{done} of {total:,}", f"{step / total:.0%}, {more}")
    return Card("steps", done, more)


def _time(run: Run) -> Card:
    starts = len(run.attempts)
    more = "in one go" if starts == 1 else f"in {starts} starts" if starts else ""
    return Card("time", duration(run.training_seconds) if starts else "none yet", more)


def _device_hours(run: Run) -> Card:
    ranks = f"{run.num_ranks} {'GPU' if run.device.startswith('cuda') else 'CPU rank'}{'s' * (run.num_ranks != 1)}"
    return Card("device-hours", words.hours(run.device_hours), ranks)


def _machines(run: Run) -> str:
    hosts = run.attempts[-1].hosts if run.attempts else ()
    named = f" on {', '.join(hosts[:4])}{f' and {len(hosts) - 4} more' if len(hosts) > 4 else ''}" if hosts else ""
    return f"{run.num_ranks} rank{'s' * (run.num_ranks != 1)}{named}, {run.device}"


def _versions(run: Run) -> str:
    told = [attempt.versions for attempt in run.attempts if attempt.versions]
    if told:
        return ", ".join(f"{name} {text}" for name, text in told[-1])
    return f"megabatch {run.job['version']}" if run.job.get("version") else ""


def _median(run: Run, name: str) -> float | None:
    import numpy as np

    values = run.metrics.steps.columns[name]
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None
