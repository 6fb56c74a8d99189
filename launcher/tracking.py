"""Trackers, as the launcher sees them: the packages that they need, and what a run of a study is sorted by."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.recipe import Recipe
from megabatch.configs.run_dir import RunDir
from megabatch.configs.tracking import LONGEST_TAG
from megabatch.launcher.command import child_environment
from megabatch.launcher.from_here import from_here

_NEEDS = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}


def tracking_problems(recipe: Recipe) -> list[Problem]:
    """Return a problem for each tracker whose packages are not installed."""
    return [
        Problem("", f"tracking.{key} needs {missing}, not installed here. Instead: pip install 'megabatch[{key}]'")
        for key, packages in _NEEDS.items()
        if getattr(recipe.tracking, key) is not None
        and (missing := ", ".join(name for name in packages if find_spec(name) is None))
    ]


def require_own_ids(job: Job) -> None:
    """Raise ConfigError if several runs of the recipe would be one at Weights & Biases."""
    if job.recipe.tracking.wandb is not None and "WANDB_RUN_ID" in child_environment(job):
        seen = "WANDB_RUN_ID is set, which is the id of one run, and this trains several"
        raise ConfigError([Problem("tracking.wandb", f"{seen}: `unset WANDB_RUN_ID`, or tracking.wandb=null")])


def as_one_of(job: Job, group: str, job_type: str, name: str, tags: Sequence[str] = ()) -> Job:
    """Return the job of a run that is one of several, so that Weights & Biases shows them together.

    What the recipe says of group and job type stays; the name of the run comes behind that of the recipe. Raises
    ConfigError where the environment has one id for all of them.
    """
    tracking = job.recipe.tracking
    if tracking.wandb is None:
        return job
    require_own_ids(job)
    given = tracking.wandb
    filled = given.model_copy(
        update={
            "group": given.group or group,
            "job_type": given.job_type or job_type,
            "name": f"{given.name}/{name}" if given.name else name,
            "tags": (*given.tags, *(tag[:LONGEST_TAG] for tag in tags)),
        }
    )
    recipe = job.recipe.model_copy(update={"tracking": tracking.model_copy(update={"wandb": filled})})
    return job.model_copy(update={"recipe": recipe})


def send_files(job: Job, run_dir: RunDir, say: Callable[[str], None]) -> None:
    """Send report and checkpoint of a finished run to Weights & Biases, where the recipe asks for it.

    A run that was written offline (wandb calls the folders of others run-*) is sent whole, files and all, another time.
    """
    wandb = job.recipe.tracking.wandb
    if wandb is None or not (wandb.log_report or wandb.log_checkpoint):
        return
    if any(run_dir.root.glob("wandb/run-*")):
        sync([run_dir], [])
    else:
        say(f"send it to Weights & Biases, with its files: megabatch sync {from_here(run_dir.root)}")


def sync(run_dirs: Sequence[RunDir], options: Sequence[str]) -> int:
    """Have a process that has wandb send runs; return its exit code."""
    folders = [str(run_dir.root) for run_dir in run_dirs]
    command = [sys.executable, "-m", "megabatch.trainer.trackers.sync", *options, *folders]
    return subprocess.run(command, check=False).returncode
