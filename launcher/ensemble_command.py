"""`megabatch ensemble`: reads arguments, has the ranks evaluate networks together, prints what was measured."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from megabatch.launcher.arguments import JsonOption, fail, or_exit_study
from megabatch.launcher.completion import complete_cluster, complete_run
from megabatch.launcher.json_output import answer, json_alone


class AverageChoice(StrEnum):
    """Of what the mean is taken."""

    PROBABILITIES = "probabilities"
    LOGITS = "logits"


def ensemble(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_DIR...", help="Runs for the same classes, or checkpoints of them.", autocompletion=complete_run
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="New run folder to write.")],
    checkpoint: Annotated[str, typer.Option(help="Of each run: best, last, or the step of a checkpoint.")] = "best",
    snapshots: Annotated[
        bool, typer.Option("--snapshots", help="Every checkpoint that a run kept for good, at the ends of its cycles.")
    ] = False,
    average: Annotated[AverageChoice, typer.Option(help="The mean of what?")] = AverageChoice.PROBABILITIES,
    weights: Annotated[
        str, typer.Option(help="uniform, fitted or greedy (on the validation split), or numbers: 0.5,0.3,0.2.")
    ] = "uniform",
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster", "-c", help="Where to evaluate (default: as the first run).", autocompletion=complete_cluster
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put several networks together into one that predicts their mean, and compare it with its best member."""
    from megabatch.launcher.study.ensemble import Settings, combine

    if snapshots and checkpoint != "best":
        fail("--snapshots takes every checkpoint that was kept for good: leave --checkpoint out")
    settings = Settings(checkpoint, average.value, _weights(weights), snapshots, cluster)
    with json_alone(as_json):
        found = or_exit_study(lambda: combine(runs, output, settings))
        answer(**{**found, "run": str(output)})
        _print(found)
        typer.echo(f"\nwritten: {output}\nnext: megabatch eval {output} --split test")


def _weights(text: str) -> Any:  # Any: the word itself, or numbers
    if text in ("uniform", "fitted", "greedy"):
        return text
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        fail(f"--weights {text}: write uniform, fitted, greedy, or numbers with commas between them (0.5,0.3,0.2)")


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("", overflow="fold", min_width=20)
    for column in ("weight", "validation", "loss", "test", "loss"):
        table.add_column(column, justify="right", no_wrap=True)
    for number, member in enumerate(found["members"]):
        results = [found[split]["members"][number] if found[split] else None for split in ("validation", "test")]
        name = f"{member['run']}, {member['checkpoint']}"
        table.add_row(name, f"{member['weight']:.3f}", *_numbers(results))
    results = [found[split]["ensemble"] if found[split] else None for split in ("validation", "test")]
    table.add_row("[bold]ensemble[/]", "", *_numbers(results))
    Console().print(table)
    for line in lines(found):
        typer.echo(line)


def _numbers(results: list[dict[str, Any] | None]) -> list[str]:
    from megabatch.configs.targets import METRICS, main_metric_in

    cells = []
    for result in results:
        name = main_metric_in(result) if result else ""
        cells += [METRICS[name].shown(result[name]), f"{result['loss']:.4f}"] if result else ["", ""]
    return cells


def lines(found: dict[str, Any]) -> list[str]:
    """Return in words what the ensemble costs, by how much it is better than its best member, and what to know."""
    told = [_cost(found["sizes"])]
    if sum(member["weight"] > 0 for member in found["members"]) == 1:
        told.append("the weights leave one network over: the others add nothing to it on validation")
    told += [
        f"{member['run']} was trained on other data than {found['members'][0]['run']}, whose splits these are"
        for member in found["members"]
        if not member["same_data"]
    ]
    split = "test" if found["test"] else "validation"
    return [*told, _gain(found, split)] if found[split] else told


def _cost(sizes: list[dict[str, Any]]) -> str:
    *members, whole = sizes
    each = ", ".join(f"{member['milliseconds_1']:.2f}" for member in members)
    return (
        f"{whole['parameters']:,} parameters; one image takes {whole['milliseconds_1']:.2f} ms on one CPU thread, "
        f"in the members {each} ms"
    )


def _gain(found: dict[str, Any], split: str) -> str:
    gain, best = found[split]["gain"], found["members"][found[split]["best_member"]]
    text = f"on {split}, against {best['run']}, {best['checkpoint']} (its best member there): "
    if gain["metric"] != "top1":
        return text + f"the loss is lower by {gain['gain']:.4g}, standard error {gain['standard_error']:.2g}"
    points, error = 100 * gain["gain"], 100 * gain["standard_error"]
    return text + (
        f"{points:+.2f} points of top-1, standard error {error:.2f}; the ensemble alone is right on "
        f"{gain['only_ensemble_right']:,} samples, the member alone on {gain['only_member_right']:,} "
        f"(p = {gain['p']:.2g}, McNemar's test)"
    )
