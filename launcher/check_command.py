"""`megabatch check --cluster`: starts the look around, prints the table, and ends with 1 if something is wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence

import typer
from rich.console import Console
from rich.table import Column, Table

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.node_facts import judge
from megabatch.configs.slurm import Slurm
from megabatch.launcher.arguments import or_exit, or_exit_study
from megabatch.launcher.backends.choose import is_watched
from megabatch.launcher.node_check import TITLES, job_to_look_with, look_around, rows, versions
from megabatch.launcher.supervise import ExitCode


def _require_watched(job: Job) -> None:
    if not is_watched(job) and not isinstance(job.cluster.backend, Slurm):
        seen = f"cluster {job.cluster.name} has backend {job.cluster.backend.name}"
        remedy = (
            "Check with a cluster file of the same nodes and backend ssh or slurm, or on each node with backend local"
        )
        raise ConfigError([Problem("", f"{seen}, which does not wait for its ranks. {remedy}")])


def check_nodes(recipe: str, overrides: Sequence[str], cluster: str, as_json: bool) -> int:
    """Do it; return the exit code."""
    job = or_exit(lambda: job_to_look_with(recipe or None, cluster, overrides))
    or_exit(lambda: _require_watched(job))
    ranks = or_exit_study(lambda: look_around(job, bool(recipe), lambda text: typer.echo(text, err=True)))
    wrong = [finding.told for finding in judge(ranks, job.cluster.device)]
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
