"""`megabatch status`, `logs`, `cancel`, `drill`: what can be done with a run from outside. Reads arguments, prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from megabatch.launcher.arguments import JsonOption, RunArgument, or_exit
from megabatch.launcher.json_output import answer, json_alone

if TYPE_CHECKING:
    from megabatch.configs.run_dir import RunDir


def status(
    run: RunArgument = "latest",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Look again every 2 s until the run has ended.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a run is doing, and each of its ranks; also one on another machine that shares the folder."""
    import json
    from dataclasses import asdict

    from megabatch.launcher.status import look
    from megabatch.launcher.status_table import show

    run_dir = or_exit(lambda: _find(run))
    if as_json:
        typer.echo(json.dumps(asdict(look(run_dir)), indent=1))
    else:
        show(lambda: look(run_dir), _total_steps(run_dir), follow)


def logs(
    run: RunArgument = "latest",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    rank: Annotated[int | None, typer.Option(min=0, help="The log of one rank alone.")] = None,
) -> None:
    """Print the logs of a run: of its batch jobs, and of every rank with its number in front."""
    from megabatch.launcher.run_logs import log_files, print_logs
    from megabatch.launcher.status import RUNNING, WAITING, look

    run_dir = or_exit(lambda: _find(run))
    goes_on = (lambda: look(run_dir).state in (RUNNING, WAITING)) if follow else None
    print_logs(lambda: log_files(run_dir, rank), typer.echo, goes_on)


def cancel(run: RunArgument) -> None:
    """End a run as Ctrl-C does: it saves first. A Slurm job that waits or runs is cancelled and not requeued."""
    from megabatch.launcher import cancel as action

    run_dir = or_exit(lambda: _find(run))
    typer.echo(or_exit(lambda: action.cancel(run_dir)))


def drill(
    run: RunArgument,
    steps: Annotated[int, typer.Option(min=1, help="Steps to wait for after the interruption.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Interrupt a training run on purpose and prove that it comes back exactly.

    Slurm is asked to requeue the job; a run that is local or over ssh is stopped and resumed by this command, which
    stays until it ends then. Exit code 1 if something is not as it was.
    """
    from dataclasses import asdict

    from megabatch.launcher import drill as action

    run_dir = or_exit(lambda: _find(run))
    with json_alone(as_json):
        checks = or_exit(lambda: action.run(run_dir, steps, typer.echo))
        for check in checks:
            typer.echo(f"{'ok    ' if check.holds else 'WRONG '}{check.text}")
        proven = action.verdict(checks)
        answer(exact=proven, checks=[asdict(check) for check in checks])
        typer.echo(
            "the run came back exactly" if proven else "error: the run did not come back exactly", err=not proven
        )
    raise typer.Exit(0 if proven else 1)


def _find(run: str) -> RunDir:
    from megabatch.launcher.save_job import find_run

    return find_run(run, None)


def _total_steps(run_dir: RunDir) -> int | None:
    """Return all steps of the run; None where its data cannot be seen from here."""
    from megabatch.configs.errors import ConfigError
    from megabatch.configs.load import read_job
    from megabatch.data.arrangement import arrange
    from megabatch.data.errors import DataError
    from megabatch.data.steps import steps_of

    try:
        job = read_job(run_dir.job)
        return steps_of(job.recipe, arrange(job).order().samples).total
    except (ConfigError, DataError, OSError):
        return None
