"""`megabatch report` and `megabatch compare`: what runs left behind, as a page or a table. Reads arguments, prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megabatch.launcher.arguments import RunArgument, or_exit
from megabatch.launcher.completion import complete_run

if TYPE_CHECKING:
    from megabatch.configs.run_dir import RunDir
    from megabatch.launcher.report.table import Table

_SECONDS_BETWEEN_LOOKS = 10.0


def report(
    run: RunArgument = "latest",
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to (default: RUN_DIR/report.html).")
    ] = None,
    price: Annotated[
        float | None, typer.Option("--price-per-device-hour", min=0, help="Also tell what the run cost.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Write it again every 10 s until the run has ended.")
    ] = False,
    show: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Write a page about a run: curves, classes, worst mistakes, ranks, restarts, the plan, how to do it again.

    `megabatch launch` writes it while it watches a run, and at its end; it opens without a network.
    """
    from megabatch.launcher.from_here import from_here
    from megabatch.launcher.report.fresh import write_report
    from megabatch.launcher.save_job import find_folder

    run_dir = or_exit(lambda: find_folder(run, None))
    file = or_exit(lambda: write_report(run_dir, output, price))
    typer.echo(f"report: {from_here(file)}")
    if show:
        _open(file)
    if follow:
        _follow(run_dir, file, price)


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN_DIR...", help="Folders of two or more runs.", autocompletion=complete_run),
    ],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page to write (default: compare.html; with --json none).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare runs: results, where the recipes differ, and all curves in one picture."""
    import json

    from megabatch.launcher.from_here import from_here
    from megabatch.launcher.report import compare as comparison
    from megabatch.launcher.report.page import write_page

    found = or_exit(lambda: comparison.read_runs(runs))
    if as_json:
        typer.echo(json.dumps(comparison.as_json(found), indent=1))
    else:
        _print_comparison(comparison.results_table(found), comparison.differences_table(found))
    page = output or (None if as_json else Path("compare.html"))
    if page is not None:
        or_exit(lambda: write_page(page, comparison.compare_page(found)))
        typer.echo(f"\npage: {from_here(page)}", err=as_json)


def _print_comparison(results: Table, differences: Table) -> None:
    """Print a column for each run: above its results, below the keys in which it differs."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Terminal

    table = Terminal(box=None, pad_edge=False, header_style="bold")
    table.add_column("", style="dim", overflow="fold")
    for row in results.rows:
        table.add_column(escape(row[0]), justify="right", overflow="fold")
    for number, title in enumerate(results.columns[1:], start=1):
        cells = [(escape(row[number]), (at, number) in results.best) for at, row in enumerate(results.rows)]
        table.add_row(title, *(f"[bold]{text} *[/]" if best else text for text, best in cells))
    table.add_row()
    for key, *values in differences.rows:
        table.add_row(escape(key), *map(escape, values))
    Console(highlight=False).print(table)
    if results.best:
        typer.echo("* the best of its row")
    if not differences.rows:
        typer.echo("the recipes are the same")


def _open(file: Path) -> None:
    if typer.launch(str(file.absolute())) != 0:
        typer.echo("no browser could be opened from here: open the file yourself", err=True)


def _follow(run_dir: RunDir, file: Path, price: float | None) -> None:
    """Write the page again and again until the run has ended; Ctrl-C ends it."""
    import time
    from contextlib import suppress

    from megabatch.launcher.report.fresh import write_report
    from megabatch.launcher.status import RUNNING, WAITING, look

    with suppress(KeyboardInterrupt):
        goes_on = True
        while goes_on:
            goes_on = look(run_dir).state in (RUNNING, WAITING)  # before it is read, so that the last one has the end
            or_exit(lambda: write_report(run_dir, file, price))
            if goes_on:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
    typer.echo(f"{run_dir.root.name}: {look(run_dir).state}")
