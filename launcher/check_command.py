"""`megabatch check --cluster`: starts the look around, prints the table, and ends with 1 if something is wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence

import typer
from rich.console import Console
from rich.table import Column, Table

from megabatch.launcher.arguments import or_exit, or_exit_study
from megabatch.launcher.node_check import TITLES, job_to_look_with, look_around, problems, rows, versions
from megabatch.launcher.study.process import require_watched
from megabatch.launcher.supervise import ExitCode


def check_nodes(recipe: str, overrides: Sequence[str], cluster: str, as_json: bool) -> int:
    """Do it; return the exit code."""
    job = or_exit(lambda: job_to_look_with(recipe or None, cluster, overrides))
    or_exit(lambda: require_watched(job, "check"))
    ranks = or_exit_study(lambda: look_around(job, bool(recipe), lambda text: typer.echo(text, err=True)))
    wrong = problems(ranks, job)
    if as_json:
        typer.echo(json.dumps({"ranks": ranks, "problems": wrong}, indent=1))
        return ExitCode.FAILED if wrong else ExitCode.DONE
    typer.echo(versions(ranks))
    table = Table(*(Column(title, no_wrap=True) for title in TITLES), box=None, pad_edge=False, header_style="dim")
    for row in rows(ranks):
        table.add_row(*row)
    Console().print(table)
    for text in wrong:
        typer.echo(f"error: {text}", err=True)
    typer.echo("memory and disk: GiB free; GB/s: what each rank sends in a sum over all")
    if not wrong:
        typer.echo("nothing is wrong")
    return ExitCode.FAILED if wrong else ExitCode.DONE
