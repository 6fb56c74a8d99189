"""`megabatch launch` and `megabatch eval`, step by step: what is checked, what is said, what is started."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict
from pathlib import Path

import typer

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.load import load, read_job
from megabatch.configs.run_dir import RunDir
from megabatch.data.arrangement import arrange
from megabatch.launcher import launch, launches, render
from megabatch.launcher.backends.choose import is_watched
from megabatch.launcher.from_here import from_here
from megabatch.launcher.json_output import answer
from megabatch.launcher.known_speed import known_speed
from megabatch.launcher.preflight import disk_space, room_to_go_on
from megabatch.launcher.prepare import Prepared, check, inspect_model, job_of
from megabatch.launcher.pruning import has_plan, new_run_with_plan
from megabatch.launcher.report import fresh
from megabatch.launcher.save_job import RUNS_FOLDER, find_folder, find_run, require_new, saved_job
from megabatch.launcher.starter import Starter
from megabatch.launcher.supervise import Ending, ExitCode
from megabatch.launcher.tracking import send_files


def start_run(recipe: str, cluster: str, overrides: Sequence[str], chosen: Path | None) -> int:
    """Check, make the run folder, start the job and say how it ended; return the exit code."""
    if chosen is not None:
        require_new(chosen)
    loaded = load(recipe, cluster, overrides)
    if loaded.recipe.continual is not None:
        from megabatch.launcher import continual  # which starts its stages with what is here

        return continual.start(job_of(loaded), chosen)
    asked = launches.asked_to_start(recipe, cluster, overrides, chosen, loaded)
    return start_job(check(job_of(loaded)), chosen, asked=asked)


def start_job(
    prepared: Prepared, chosen: Path | None, whole: RunDir | None = None, asked: launches.Asked | None = None
) -> int:
    """Inspect the model, make the run folder, start a checked job and say how it ended; return the exit code.

    `whole` is the folder with which it goes on if it is stopped, where that is not its own; `asked` is for the report.
    """
    launch.render(prepared.job, RunDir((chosen or RUNS_FOLDER / "run").absolute()))  # refuses before anything is made
    with closing(Starter(prepared.job)) if prepared.job.cluster.backend.name == "local" else nullcontext() as starter:
        found = inspect_model(prepared.job, starter)
        render.print_plan(prepared.job, prepared.plan, found, known_speed(prepared.job, RUNS_FOLDER))
        kept = prepared.job.recipe.kept_checkpoints
        full = disk_space((chosen or RUNS_FOLDER).absolute(), found["checkpoint_bytes"], kept)
        if full:
            raise ConfigError(Problem("", message) for message in full)
        job, run_dir = new_run_with_plan(prepared.job, chosen, found)
        launches.record(run_dir, job, prepared.plan, found, asked)
        return run_job(job, run_dir, starter, whole)


def dry_run(recipe: str, cluster: str, overrides: Sequence[str], write: Path | None) -> int:
    """Show the plan and the exact command; with `write`, write job.yaml for a start by hand."""
    loaded = load(recipe, cluster, overrides)
    if loaded.recipe.continual is not None:
        from megabatch.launcher import continual

        return continual.dry_run(job_of(loaded), write)
    prepared = check(job_of(loaded))
    run_dir = RunDir(Path("RUN_DIR"))
    if write:
        found = inspect_model(prepared.job) if has_plan(prepared.job) else {}
        job, run_dir = new_run_with_plan(prepared.job, write, found)
        prepared = Prepared(job, prepared.plan)
    show(prepared, run_dir)
    if write:
        launch.render(prepared.job, run_dir).write_files()
        typer.echo(f"\nwritten: {run_dir.job}")
        if prepared.job.cluster.backend.name == "local":
            ranks = prepared.job.cluster.processes_per_node
            typer.echo(f"by hand: torchrun --nproc-per-node {ranks} -m megabatch.trainer {run_dir.job}")
    return ExitCode.DONE


def resume_run(which: str, recipe: str | None, cluster: str | None, overrides: Sequence[str], dry: bool) -> int:
    """Go on with a run from its newest checkpoint, perhaps on another cluster; return the exit code."""
    folder = find_folder(which, load(recipe, "laptop").recipe.name if recipe else None)
    if read_job(folder.job).recipe.continual is not None:
        from megabatch.launcher import continual

        return continual.resume(folder, cluster, overrides, dry)
    resumed = launch.resume(which, recipe, cluster, overrides)
    if dry:
        show(resumed.prepared, resumed.run_dir)
        return ExitCode.DONE
    if launch.is_finished(resumed.run_dir):
        typer.echo(f"{resumed.run_dir.root} has finished: nothing is left to train")
        answer(run=str(resumed.run_dir.root), exit_code=0, result=launch.read_result(resumed.run_dir.result))
        _summary(resumed.run_dir)
        return ExitCode.DONE
    if full := room_to_go_on(resumed.run_dir):
        raise ConfigError(Problem("", message) for message in full)
    asked = launches.asked_to_resume(which, cluster, overrides)
    launches.record(resumed.run_dir, resumed.prepared.job, resumed.prepared.plan, None, asked)
    return run_job(resumed.prepared.job, resumed.run_dir)


def evaluate_run(which: str, split: str, checkpoint: str, weights: str) -> int:
    """Evaluate a checkpoint on a split and print the result; return the exit code."""
    run_dir = find_run(which, None)
    job = saved_job(run_dir)
    arrange(job).whole.split(split)  # tells the splits there are, before any rank starts
    if weights == "raw" and job.recipe.averaging is None:
        raise ConfigError([Problem("", f"{run_dir.root}: the recipe has no averaging: leave out --raw")])
    arguments = ["--evaluate", split, "--checkpoint", checkpoint, "--weights", weights]
    ending = launch.start(job, run_dir, _say, arguments)
    result = run_dir.evaluation(split, checkpoint)
    if ending.code == ExitCode.DONE and is_watched(job):
        render.print_evaluation(launch.read_result(result))
        fresh.write_quietly(run_dir)  # it has the classes and mistakes of this split now
        answer(**launch.read_result(result))
    elif ending.code == ExitCode.DONE:
        typer.echo(f"when it has run, the result is in {from_here(result)}")
    return _told(ending)


def run_job(job: Job, run_dir: RunDir, starter: Starter | None = None, whole: RunDir | None = None) -> int:
    """Run the ranks of a job, say how they ended and how to go on; return the exit code."""
    named = from_here((whole or run_dir).root)
    typer.echo(f"run folder: {run_dir.root}")
    answer(run=str(run_dir.root))
    ending = launch.start(job, run_dir, _say, starter=starter)
    if ending.code == ExitCode.DONE and is_watched(job) and not launch.is_finished(run_dir):
        ending = Ending(ExitCode.STOPPED, "")
    answer(exit_code=int(ending.code), result=launch.read_result(run_dir.result))
    if ending.code == ExitCode.STOPPED:
        typer.echo(f"stopped. Go on with: megabatch launch --resume {named}")
    elif ending.code == ExitCode.DONE and is_watched(job):
        _summary(run_dir)
        send_files(job, run_dir, _say)
    if ending.message:
        launches.record_ending(run_dir, ending.message)
    if ending.code != ExitCode.DONE and run_dir.report.exists():
        fresh.write_quietly(run_dir)
        typer.echo(f"report: {from_here(run_dir.report)}", err=ending.code == ExitCode.FAILED)
    if ending.code == ExitCode.FAILED and any(run_dir.checkpoints.glob("step-*")):
        typer.echo(f"go on from the last checkpoint with: megabatch launch --resume {named}", err=True)
    return _told(ending)


def _told(ending: Ending) -> int:
    if ending.message:
        typer.echo(f"error: {ending.message}" if ending.code != ExitCode.STOPPED else ending.message, err=True)
    return ending.code


def _summary(run_dir: RunDir) -> None:
    render.print_summary(launch.read_result(run_dir.result), from_here(run_dir.root))


def show(prepared: Prepared, run_dir: RunDir) -> None:
    """Print the plan of a job, and what would be run."""
    render.print_plan(prepared.job, prepared.plan, None, known_speed(prepared.job, RUNS_FOLDER))
    submission = launch.render(prepared.job, run_dir)
    typer.echo("\nwould run:\n")
    typer.echo(str(submission))
    answer(plan=asdict(prepared.plan), command=submission.argv, environment=submission.environment)


def _say(text: str) -> None:
    typer.echo(text)
