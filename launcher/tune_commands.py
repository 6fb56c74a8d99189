"""`megabatch tune lr` and `megabatch tune batch`: read arguments, have the ranks measure, write and print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from megabatch.configs.json_files import read_json
from megabatch.launcher.arguments import (
    DEFAULT_CLUSTER,
    ClusterOption,
    JsonOption,
    RecipeArguments,
    fail,
    or_exit,
    or_exit_study,
    split,
)
from megabatch.launcher.help_text import examples
from megabatch.launcher.json_output import answer, json_alone
from megabatch.launcher.mistakes import mistakes_told

app = typer.Typer(
    help="Measure what a recipe should say: the learning rate, the micro-batch.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
FolderOption = Annotated[
    Path, typer.Option("--folder", metavar="DIR", help="Where NAME-lr.json, NAME-batch.html and so on are written.")
]
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@app.command(epilog=examples("megabatch tune lr digits --high 10 optimizer.name=lamb"))
def lr(
    arguments: RecipeArguments,
    cluster: ClusterOption = DEFAULT_CLUSTER,
    low: Annotated[float, typer.Option(help="Learning rate of the first step.")] = 1e-5,
    high: Annotated[
        float, typer.Option(help="Learning rate of the last step, if the loss is not lost before.")
    ] = 100.0,
    steps: Annotated[int, typer.Option(min=10, help="Steps from low to high.")] = 140,
    folder: FolderOption = Path("tune"),
    as_json: JsonOption = False,
) -> None:
    """Find a learning rate: a short training in which it grows from step to step (Smith 2017)."""
    from megabatch.launcher.prepare import prepare
    from megabatch.launcher.study import tune_report
    from megabatch.launcher.study.lr_range import analyse, run_range_test
    from megabatch.launcher.supervise import ExitCode

    if not 0 < low < high:
        fail(f"--low {low:g} --high {high:g}: the range begins above 0 and ends above its beginning")
    recipe, overrides = split(arguments)
    prepared = or_exit(lambda: prepare(recipe, cluster, overrides))
    with json_alone(as_json):
        typer.echo(f"up to {steps} steps of {prepared.plan.global_batch:,} samples, learning rate {low:g} to {high:g}")
        found = or_exit_study(lambda: run_range_test(prepared, low, high, steps))
        if found["ended"] == "stopped":
            typer.echo("stopped; nothing was written", err=True)
            raise typer.Exit(ExitCode.STOPPED)
        result = analyse(found["rates"], found["losses"], found["ended"])
        with mistakes_told():
            written = tune_report.write_lr(prepared.job.recipe, result, folder)
        answer(written=[str(file) for file in written], **read_json(written[0]))
        typer.echo(tune_report.lr_text(prepared.job.recipe, result))
        typer.echo(f"\nwritten: {', '.join(map(str, written))}")
        if result.problem:
            raise typer.Exit(ExitCode.FAILED)


@app.command(epilog=examples("megabatch tune batch cifar10 --cluster one-node-8gpu --max 1024"))
def batch(
    arguments: RecipeArguments,
    cluster: ClusterOption = DEFAULT_CLUSTER,
    most: Annotated[
        int | None, typer.Option("--max", min=1, help="Largest micro-batch to try (default: the global batch).")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="Least time to measure each size.")] = 1.0,
    memory_limit: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Bytes a rank may take, such as 500M or 8G (default: what the device has)."),
    ] = None,
    folder: FolderOption = Path("tune"),
    as_json: JsonOption = False,
) -> None:
    """Find the micro-batch: the largest that fits into memory, and the smallest that is as fast as any."""
    from megabatch.launcher.prepare import inspect_model, prepare
    from megabatch.launcher.study import tune_report
    from megabatch.launcher.study.batch_size import measure

    limit = None if memory_limit is None else _bytes(memory_limit)
    recipe, overrides = split(arguments)
    prepared = or_exit(lambda: prepare(recipe, cluster, overrides))
    with json_alone(as_json):
        or_exit(lambda: inspect_model(prepared.job))
        largest = min(most or prepared.plan.global_batch, prepared.plan.global_batch)
        typer.echo(f"micro-batches of 1 to {largest:,} images on one {prepared.job.cluster.device} rank")
        result = or_exit_study(lambda: measure(prepared.job, largest, seconds, limit))
        with mistakes_told():
            written = tune_report.write_batch(prepared.job, result, folder)
        answer(written=[str(file) for file in written], **read_json(written[0]))
        typer.echo(tune_report.batch_text(result))
        typer.echo(f"\nwritten: {', '.join(map(str, written))}")


def _bytes(text: str) -> int:
    """Return the bytes of "500M"; ends the command for what is no size."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in _UNITS and text else (text, "")
    if not number.isdecimal() or int(number) == 0:
        fail(f"--memory-limit {text}: write a number of bytes, or one with K, M or G behind it")
    return int(number) * _UNITS[unit]
