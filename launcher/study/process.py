"""Starts the ranks for a study in a run folder of its own, which is gone afterwards; no run of the user is touched."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher import launch
from megabatch.launcher.supervise import Ending, ExitCode


class StudyFailedError(Exception):
    """The ranks ended without a result."""

    def __init__(self, ending: Ending):
        super().__init__(ending.message)
        self.ending = ending


@contextmanager
def scratch_run() -> Iterator[RunDir]:
    """Yield a run folder that is removed again; after a failure it stays, for its logs."""
    folder = Path(tempfile.mkdtemp(prefix="megabatch-study-"))
    try:
        yield RunDir(folder)
    except StudyFailedError as error:
        if error.ending.code == ExitCode.STOPPED:
            shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)


@contextmanager
def made_run(output: Path) -> Iterator[RunDir]:
    """Yield a hidden run folder that becomes `output` if a study in it ends well, and else is removed."""
    hidden = output.absolute().with_name(f".{output.name}.{os.getpid()}")
    hidden.mkdir(parents=True)
    try:
        yield RunDir(hidden)
        (hidden / "study.json").unlink()
        if output.exists():
            output.rmdir()  # it was empty
        hidden.rename(output)
    except StudyFailedError as error:
        cause = error.ending.message.partition("\nlogs: ")[0]  # the logs go with the folder
        raise StudyFailedError(Ending(error.ending.code, cause)) from None
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def run_study(
    job: Job, run_dir: RunDir, study: str, settings: dict[str, Any], say: Callable[[str], None]
) -> dict[str, Any]:  # Any: plain JSON values
    """Have the ranks of a local job do a study; return their result. `say` tells what Ctrl-C does.

    Raises StudyFailedError.
    """
    request = write_request(run_dir, study, settings)
    ending = launch.start(job, run_dir, say, ["--study", str(request)])
    if ending.code != ExitCode.DONE:
        raise StudyFailedError(ending)
    return launch.read_result(run_dir.study_result)


def write_request(run_dir: RunDir, study: str, settings: dict[str, Any]) -> Path:
    """Write what the ranks are asked for, and return the file."""
    request = run_dir.root / "study.json"
    request.write_text(json.dumps({"study": study, **settings}), encoding="utf-8")
    return request


def say_stopping(text: str) -> None:
    """Say what Ctrl-C does where steps are taken: there are no checkpoints."""
    typer.echo("stopping at the end of this step (again: stop at once)", err=True)


def require_local(job: Job, command: str, also: tuple[str, ...] = ()) -> None:
    """Raise ConfigError for a cluster whose backend does not wait for the end of a job, and is none of `also`."""
    if job.cluster.backend.name not in ("local", *also):
        seen = f"cluster {job.cluster.name} has backend {job.cluster.backend.name}, but `megabatch {command}`"
        problem = f"{seen} waits for its runs. Run it on a node, with --cluster laptop or another local cluster file"
        raise ConfigError([Problem("", problem)])


def without_tracking(job: Job) -> Job:
    """Return the job with no trackers but our own and no sample logs: a study is no run of the user's."""
    none = {"wandb": None, "tensorboard": None, "mlflow": None, "own": (), "sample_log": False}
    tracking = job.recipe.tracking.model_copy(update=none)
    return job.model_copy(update={"recipe": job.recipe.model_copy(update={"tracking": tracking})})
