"""Writes RUN_DIR/job.yaml, and finds run folders again. The only place that makes run folders."""

from __future__ import annotations

import os
import time
from pathlib import Path

from ruamel.yaml import YAML

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.load import read_job
from megabatch.configs.new_file import FOR_ITS_OWNER, open_new
from megabatch.configs.run_dir import RunDir

RUNS_FOLDER = Path("runs")


def write_job(job: Job, file: Path) -> None:
    """Write the job atomically; readable only by its owner, for the environment may hold what others must not see.

    Raises ConfigError where the folder takes no file.
    """
    try:
        _write_job(job, file)
    except OSError as error:
        raise _unwritable(file.parent, error) from None


def _unwritable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(
        [Problem(str(folder), f"cannot be written: {error.strerror}. Make it writable, or choose another --run-dir")]
    )


def _write_job(job: Job, file: Path) -> None:
    hidden = file.with_name(f".{file.name}.{os.getpid()}")
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    with open_new(hidden, FOR_ITS_OWNER) as opened:
        opened.write("# Written by megabatch launch; the ranks read this file and nothing else.\n")
        yaml.dump(job.model_dump(mode="json"), opened)
    hidden.rename(file)


def new_run_dir(job: Job, chosen: Path | None) -> RunDir:
    """Make a run folder: the chosen one if it is empty or new, else runs/NAME-DATE-TIME."""
    folder = chosen or unused_folder(job.recipe.name)
    require_new(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None
    write_job(job, RunDir(folder.absolute()).job)
    return RunDir(folder.absolute())


def require_new(folder: Path) -> None:
    """Raise ConfigError if a run cannot begin in this folder."""
    if (folder / "job.yaml").exists():
        raise ConfigError(
            [Problem(str(folder), f"is a run already: `megabatch launch --resume {folder}` goes on with it")]
        )
    recipe = RunDir(folder).recipe  # it may lie there before the run begins
    if folder.exists() and (not folder.is_dir() or any(file != recipe for file in folder.iterdir())):
        raise ConfigError([Problem(str(folder), "is not an empty folder: choose another --run-dir")])


def saved_job(run_dir: RunDir) -> Job:
    """Read the job of a run that is to be started again. Raises ConfigError if its working folder is gone."""
    job = read_job(run_dir.job)
    if not Path(job.working_folder).is_dir():
        problem = (
            f"{job.working_folder} is no folder any more; relative paths and your own modules are found from it. "
            "Put it back, or write here where they are now"
        )
        raise ConfigError([Problem(f"{run_dir.job}: working_folder", problem)])
    return job


def find_run(name: str, recipe_name: str | None) -> RunDir:
    """Return the run folder that a command means: as `find_folder`, and of one with stages the newest of them."""
    run_dir = find_folder(name, recipe_name)
    return (run_dir.stages() or [run_dir])[-1]


def find_folder(name: str, recipe_name: str | None) -> RunDir:
    """Return the run folder that `--resume` means: a path, or `latest` for the newest run (of the recipe, if given)."""
    if name != "latest":
        run_dir = RunDir(Path(name).absolute())
        if not run_dir.job.is_file():
            raise ConfigError(
                [Problem(name, "is no run folder: it has no job.yaml. `megabatch launch RECIPE` makes one")]
            )
        return run_dir
    for job_file in sorted(RUNS_FOLDER.glob("*/job.yaml"), key=lambda file: file.stat().st_mtime, reverse=True):
        if recipe_name is None or read_job(job_file).recipe.name == recipe_name:
            return RunDir(job_file.parent.absolute())
    of_recipe = f" of the recipe {recipe_name}" if recipe_name else ""
    raise ConfigError([Problem(str(RUNS_FOLDER.absolute()), f"has no run{of_recipe}: start one without --resume")])


def unused_folder(name: str) -> Path:
    """Return runs/NAME-DATE-TIME, with a number behind it if that is taken."""
    return _unused(RUNS_FOLDER / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")


def _unused(folder: Path) -> Path:
    number = 1
    candidate = folder
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate
