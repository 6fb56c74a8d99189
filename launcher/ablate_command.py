"""`megabatch ablate`: reads arguments, plans, trains cell by cell, and reports after every seed and at the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megabatch.configs.json_files import read_json
from megabatch.launcher.arguments import DEFAULT_CLUSTER, ClusterOption, JsonOption, RecipeArguments, or_exit, split
from megabatch.launcher.json_output import answer, json_alone

if TYPE_CHECKING:
    from megabatch.launcher.study.ablation import Ablation


def ablate(
    arguments: RecipeArguments,
    vary: Annotated[
        list[str],
        typer.Option("--vary", metavar="KEY=VALUE|VALUE", help="A key and values to try, in quotes; may be repeated."),
    ],
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each cell, with seed, seed + 1, ...")] = 3,
    cluster: ClusterOption = DEFAULT_CLUSTER,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the ablation (default: ablations/NAME).")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Every combination of the values, not each value alone against the recipe.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and count the runs; start nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Find out which techniques help: train the recipe with and without each, several seeds, and compare.

    Ctrl-C saves a checkpoint; the same command again keeps what is finished and goes on. With a Slurm cluster file the
    runs are the tasks of one job array, and the same command again reports.
    """
    from megabatch.launcher.study import ablation as study
    from megabatch.launcher.study.matrix import cells_of, parse_factor

    recipe, overrides = split(arguments)
    cells = or_exit(lambda: cells_of([parse_factor(text) for text in vary], full))
    planned = or_exit(lambda: study.plan_ablation(recipe, cluster, overrides, cells, seeds, folder))
    or_exit(lambda: study.require_unchanged(planned))
    or_exit(lambda: study.inspect_cells(planned))
    with json_alone(as_json):
        _tell_plan(planned)
        if dry_run:
            return
        train = _submit_all if planned.base.cluster.backend.name == "slurm" else _train_all
        raise typer.Exit(or_exit(lambda: train(planned)))


def _tell_plan(planned: Ablation) -> None:
    from megabatch.launcher import launch

    finished = sum(launch.is_finished(run.run_dir) for run in planned.runs)
    typer.echo(
        f"{len(planned.cells)} cells x {len(planned.seeds)} seeds = {len(planned.runs)} runs, "
        f"{planned.samples:,} samples in all; {finished} finished already"
    )
    for cell in planned.cells:
        typer.echo(
            f"  {cell.label}: {planned.plans[cell].total_steps:,} steps, {planned.plans[cell].samples_in_all:,} samples"
        )
    for cell in planned.same_as_base:
        typer.echo(f"  {cell.label} is what the base has already: no run")
    typer.echo(f"folder: {planned.folder}")


def _submit_all(planned: Ablation) -> int:
    """Report on the runs that are finished, and submit the others as one array; return the exit code."""
    from megabatch.launcher import launch
    from megabatch.launcher.study.array import submit_array
    from megabatch.launcher.study.runs import held
    from megabatch.launcher.supervise import ExitCode

    with held(planned.folder):
        left = [run for run in planned.runs if not launch.is_finished(run.run_dir)]
        if len(left) < len(planned.runs):
            _report(planned, {})
        if not left:
            return ExitCode.DONE
        ending = submit_array(planned.folder, left, typer.echo)
    if ending.message:
        typer.echo(f"error: {ending.message}", err=True)
    return ending.code


def _train_all(planned: Ablation) -> int:
    """Train every run that is not finished; report; return the exit code."""
    from megabatch.launcher import launch
    from megabatch.launcher.study.runs import held, train
    from megabatch.launcher.supervise import ExitCode

    failures: dict[Path, str] = {}
    with held(planned.folder):
        for number, run in enumerate(planned.runs, start=1):
            if launch.is_finished(run.run_dir):
                continue
            typer.echo(f"\n[{number} of {len(planned.runs)}] {run.cell.label}, seed {run.seed}")
            ending = train(run.job, run.run_dir)
            if ending.code == ExitCode.STOPPED:
                _report(planned, failures)
                typer.echo("stopped. The same command goes on where this one ended")
                return ExitCode.STOPPED
            if ending.code != ExitCode.DONE:
                typer.echo(f"error: {run.cell.label}, seed {run.seed}: {ending.message}", err=True)
                failures[run.run_dir.root] = f"failed: {ending.message.splitlines()[0]}"
            if run.cell == planned.cells[-1] and run != planned.runs[-1]:
                _report(planned, failures)
        _report(planned, failures)
    return ExitCode.FAILED if failures else ExitCode.DONE


def _report(planned: Ablation, failures: dict[Path, str]) -> None:
    from megabatch.launcher.study import ablation_report
    from megabatch.launcher.study.effects import collect

    results = collect(planned, failures)
    files = ablation_report.write_report(planned, results)
    typer.echo("")
    ablation_report.print_table(results)
    answer(written=[str(file) for file in files], **read_json(files[0]))
    typer.echo(f"\nwritten: {', '.join(str(file) for file in files)}")
