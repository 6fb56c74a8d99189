"""`megabatch soup`: reads arguments, has the ranks average and evaluate, prints."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from megabatch.launcher.arguments import JsonOption, or_exit_study
from megabatch.launcher.completion import complete_run
from megabatch.launcher.json_output import answer, json_alone


class BatchNormChoice(StrEnum):
    """Where running statistics of batch norm come from."""

    RECOMPUTE = "recompute"
    AVERAGE = "average"


def soup(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN_DIR...", help="Folders of runs of the same model.", autocompletion=complete_run),
    ],
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="New run folder to write.")],
    greedy: Annotated[
        bool, typer.Option("--greedy", help="Best run first, and keep only what makes validation no worse.")
    ] = False,
    checkpoint: Annotated[str, typer.Option(help="best, last, or the step of a checkpoint.")] = "best",
    batch_norm: Annotated[
        BatchNormChoice, typer.Option(help="Running statistics: computed anew from training images, or averaged.")
    ] = BatchNormChoice.RECOMPUTE,
    as_json: JsonOption = False,
) -> None:
    """Average the weights of several runs into one network and evaluate it.

    Wortsman et al. 2022, "Model soups".
    """
    from megabatch.launcher.study.soup import cook

    with json_alone(as_json):
        job, found = or_exit_study(lambda: cook(runs, output, checkpoint, greedy, batch_norm.value))
        answer(**{**found, "run": str(output)})
        _print(runs, found, job.recipe.metric)
        typer.echo(f"\nwritten: {output}\nnext: megabatch eval {output} --split test")


def _print(runs: list[str], found: dict[str, Any], metric: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("", overflow="fold", min_width=20)
    for column in ("in", "validation", "loss", "test", "loss"):
        table.add_column(column, justify="right", no_wrap=True)
    best = found["best_single_test"]
    for number, run in enumerate(runs):
        validation = found["single_validation"][number] if found["single_validation"] else None
        test = best if best and best["run"] == number else None
        chosen = "yes" if number in found["chosen"] else "no"
        table.add_row(f"{run}, {found['checkpoints'][number]}", chosen, *_numbers(validation), *_numbers(test))
    table.add_row("[bold]soup[/]", str(len(found["chosen"])), *_numbers(found["validation"]), *_numbers(found["test"]))
    Console().print(table)
    if _is_worse(found, metric):
        typer.echo(
            "the soup is worse than its best run: averages help where the runs began from the same trained weights "
            "(fine-tuning), not where each began from random ones"
        )
    if best:
        typer.echo(f"on the test split stand the soup and the one run that is best on validation ({metric})")
    if found["batch_norm"] != "none":
        typer.echo(f"running statistics of batch norm: {_BATCH_NORM[found['batch_norm']]}")


def _is_worse(found: dict[str, Any], metric: str) -> bool:
    """Return whether a run alone is better on the validation split than the soup."""
    if not found["validation"]:
        return False
    from megabatch.configs.targets import is_better

    alone, together = [one[metric] for one in found["single_validation"]], found["validation"][metric]
    return any(is_better(value, together, metric) for value in alone)


_BATCH_NORM = {
    "recompute": "computed anew from training images (--batch-norm average takes their mean instead)",
    "average": "the mean of those of the runs",
}


def _numbers(result: dict[str, Any] | None) -> tuple[str, str]:
    if not result:
        return "", ""
    from megabatch.configs.targets import METRICS, main_metric_in

    name = main_metric_in(result)
    return METRICS[name].shown(result[name]), f"{result['loss']:.4f}"
