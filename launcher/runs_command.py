"""`megabatch runs`: lists the runs below a folder and removes some. Reads arguments, prints, asks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megabatch.configs.errors import shortened
from megabatch.configs.sizes import size
from megabatch.launcher.arguments import JsonOption, fail, or_exit
from megabatch.launcher.completion import complete_run_folder
from megabatch.launcher.help_text import examples

if TYPE_CHECKING:
    from megabatch.launcher.run_list import Run
    from megabatch.launcher.run_removal import Removal

app = typer.Typer(
    help="List the runs below a folder, filter and sort them; remove some.",
    invoke_without_command=True,
    no_args_is_help=False,
    rich_markup_mode=None,
    epilog=examples(
        "megabatch runs",
        "megabatch runs --where 'recipe=digits*' --where 'test.top1>0.9' --sort test.top1",
        "megabatch runs --state failed --state gone --json",
        "megabatch runs remove runs/digits-20261120-231942",
    ),
)
FolderOption = Annotated[Path, typer.Option("--folder", metavar="DIR", help="Where the runs are.")]
_TO_THE_LEFT = ("run", "state", "recipe")
_STATES = ("not started", "waiting", "running", "stopped", "finished", "failed", "gone", "damaged")


@app.callback()
def list_runs(
    context: typer.Context,
    folder: FolderOption = Path("runs"),
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="CONDITION", help="recipe=digits, 'test.top1>0.9', 'age<2d', optimizer.name=lamb."),
    ] = None,
    state: Annotated[
        list[str] | None, typer.Option(metavar="STATE", help=f"One of {', '.join(_STATES)}; may be given again.")
    ] = None,
    sort: Annotated[
        str, typer.Option(metavar="KEY", help="age, best, test.top1, epochs...; the best of a metric first.")
    ] = "age",
    as_json: JsonOption = False,
) -> None:
    """List the runs below a folder: state, recipe, age, epochs, best on validation, test, ranks.

    A condition is a column, a number of result.json, or a key of recipe or cluster, with =, !=, >, >=, < or <= and a
    value. Texts may have * in them, ages end in s, m, h or d, and 90% is 0.9.
    """
    if context.invoked_subcommand is not None:
        return
    from megabatch.launcher.run_filters import chosen, ordered, parse_condition
    from megabatch.launcher.run_list import runs_below

    if unknown := [name for name in state or [] if name not in _STATES]:
        fail(f"--state {unknown[0]}: write one of {', '.join(_STATES)}")
    conditions = or_exit(lambda: [parse_condition(text) for text in where or []])
    if not folder.is_dir():
        fail(f"{folder}: no such folder. `megabatch launch RECIPE` makes runs/NAME-DATE-TIME; --folder names another")
    found = or_exit(lambda: runs_below(folder))
    kept = or_exit(lambda: ordered(chosen(found, conditions, state or []), sort, found))
    if as_json:
        _print_json(kept)
    else:
        _print(kept, len(found), folder)


@app.command(
    epilog=examples(
        "megabatch runs remove runs/digits-20261120-231942",
        "megabatch runs remove runs/a runs/b --checkpoints --yes",
    )
)
def remove(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Folders of runs, or their names in --folder.", autocompletion=complete_run_folder
        ),
    ],
    folder: FolderOption = Path("runs"),
    checkpoints: Annotated[
        bool,
        typer.Option("--checkpoints", help="Only checkpoints: the best stays, and the newest of a run that can go on."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove runs, or their checkpoints. Refuses a run that is running, or that another run begins from."""
    from megabatch.launcher.run_removal import plan_removal

    removals = or_exit(lambda: plan_removal(runs, folder, checkpoints))
    if not removals:
        typer.echo("nothing to remove")
        return
    for removal in removals:
        typer.echo(_told(removal, checkpoints))
    total = size(sum(removal.bytes for removal in removals))
    if not yes and not typer.confirm(f"remove {total}?"):
        raise typer.Exit(1)
    for removal in removals:
        _remove(removal)
    typer.echo(f"removed: {total}")


def _remove(removal: Removal) -> None:
    from megabatch.configs.run_lock import RunFolderError
    from megabatch.launcher.run_removal import remove as action

    try:
        or_exit(lambda: action(removal))
    except RunFolderError as error:  # it has been started since
        fail(str(error))


def _told(removal: Removal, only_checkpoints: bool) -> str:
    from megabatch.launcher.from_here import from_here

    count = len(removal.folders)
    what = f", {count} checkpoint{'s' if count != 1 else ''}" if only_checkpoints else ""
    return f"{from_here(removal.run.run_dir.root)}: {removal.run.state}{what}, {size(removal.bytes)}"


def _print_json(runs: list[Run]) -> None:
    import json

    typer.echo(json.dumps([_values(run) for run in runs], indent=1))


def _values(run: Run) -> dict[str, Any]:  # Any: plain values
    return {
        "run": str(run.run_dir.root), "state": run.state, "recipe": run.recipe, "age_seconds": round(run.age_seconds),
        "epochs_done": run.epochs_done, "epochs": run.epochs, "ranks": run.ranks, "metric": run.metric,
        "best": run.value("best"), "test": run.test,
    }  # fmt: skip


def _print(runs: list[Run], in_all: int, folder: Path) -> None:
    """Print columns; without rich, which takes half a second for a thousand lines, and never cut short."""
    metrics = sorted({run.metric for run in runs if run.recipe is not None})
    names = [
        "run",
        "state",
        "recipe",
        "age",
        "epochs",
        "best",
        "test",
        *(["metric"] if len(metrics) > 1 else []),
        "ranks",
    ]
    rows = [dict(zip(names, names, strict=True)), *(_cells(run, folder) for run in runs)]
    widths = {name: max(len(row[name]) for row in rows) for name in names}
    for row in rows if runs else []:
        cells = (row[n].ljust(widths[n]) if n in _TO_THE_LEFT else row[n].rjust(widths[n]) for n in names)
        typer.echo("  ".join(cells).rstrip())
    left_out = f" of {in_all:,}" if len(runs) < in_all else ""
    of_metric = f"; best and test are {metrics[0]}" if len(metrics) == 1 else ""
    typer.echo(f"{len(runs):,}{left_out} run{'s' if in_all != 1 else ''} below {folder}{of_metric}")


def _cells(run: Run, folder: Path) -> dict[str, str]:
    return {
        "run": shortened(str(run.run_dir.root.relative_to(folder))),
        "state": run.state,
        "recipe": shortened(run.recipe or ""),
        "age": _age(run.age_seconds),
        "epochs": "" if run.epochs is None else f"{run.epochs_done:g}/{run.epochs}",
        "best": _shown(run, run.value("best")),
        "test": _shown(run, run.test.get(run.metric)),
        "metric": "" if run.recipe is None else run.metric,
        "ranks": "" if run.ranks is None else str(run.ranks),
    }


def _shown(run: Run, value: object) -> str:
    from megabatch.configs.targets import METRICS

    return METRICS[run.metric].shown(value) if isinstance(value, int | float) else ""


def _age(seconds: float) -> str:
    """Return an age in its largest unit.

    >>> _age(30), _age(3000), _age(90000)
    ('30s', '50m', '25h')
    """
    for unit, length, most in (("s", 1, 60), ("m", 60, 60), ("h", 3600, 48)):
        if seconds < length * most:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds / 86400:.0f}d"
