"""`megabatch soup`: looks whether runs can be averaged, has the ranks do it, and leaves a finished run folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import typer

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.pruning import plan_hash
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.prepare import check
from megabatch.launcher.save_job import find_run, require_new, saved_job
from megabatch.launcher.study.process import made_run, require_local, run_study, without_tracking

BatchNorm = Literal["recompute", "average"]


def cook(
    folders: Sequence[str], output: Path, which: str, greedy: bool, batch_norm: BatchNorm
) -> tuple[Job, dict[str, Any]]:
    """Average the runs into `output`; return the job and what the ranks found. Raises ConfigError, StudyFailedError."""
    require_new(output)
    runs = [find_run(folder, None) for folder in folders]
    job = _common_job(runs, folders)
    require_local(job, "soup")
    if greedy and job.recipe.data.validation_split is None:
        problem = "chooses by the validation split, and the recipe of these runs has none: leave out --greedy"
        raise ConfigError([Problem("--greedy", problem)])
    job = check(_without_averaging(without_tracking(job))).job
    with made_run(output) as hidden:
        if runs[0].pruning_plan.exists():
            shutil.copyfile(runs[0].pruning_plan, hidden.pruning_plan)
        settings = {"runs": [str(run.root) for run in runs], "which": which, "greedy": greedy, "batch_norm": batch_norm}
        found = run_study(job, hidden, "soup", settings, _say_stopping)
    return job, found


def _without_averaging(job: Job) -> Job:
    """Return the job without `averaging`: its average is that of a training, and would stand in for the soup."""
    return job.model_copy(update={"recipe": job.recipe.model_copy(update={"averaging": None})})


def _say_stopping(text: str) -> None:
    typer.echo("a soup has nothing to save: again stops it at once", err=True)


def _common_job(runs: Sequence[RunDir], folders: Sequence[str]) -> Job:
    """Return the job of the first run. Raises ConfigError if another one has another network or other data."""
    if len({run.root.resolve() for run in runs}) < len(runs):
        raise ConfigError([Problem("", "a run is named twice: a soup is made of different runs")])
    if len(runs) < 2:
        raise ConfigError([Problem("", "one run is no soup: name two or more run folders")])
    jobs = [saved_job(run) for run in runs]
    problems = [
        Problem(folder, f"has {key} {mine}, but {folders[0]} has {its}: only runs that agree in it can be averaged")
        for folder, job in zip(folders[1:], jobs[1:], strict=True)
        for (key, mine), its in zip(_must_agree(job).items(), _must_agree(jobs[0]).values(), strict=True)
        if mine != its
    ]
    if problems:
        raise ConfigError(problems)
    return jobs[0]


def _must_agree(job: Job) -> dict[str, Any]:
    """Return what decides the network and how it sees images."""
    recipe = job.recipe.model_dump(mode="json")
    places = ("image_size", "normalize", "evaluation_transforms", "validation_split", "test_split")
    return {
        "model.name": recipe["model"]["name"],
        "model.options": recipe["model"]["options"],
        "pruning": plan_hash(job.recipe.pruning),
        "quantization": recipe["quantization"],
        "data": job.data_fingerprint[:12],
        **{f"data.{place}": recipe["data"][place] for place in places},
    }
