"""What studies of several runs share: a folder that is theirs, and runs in it that go on where they ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.load import read_job
from megabatch.configs.run_dir import RunDir
from megabatch.configs.run_lock import RunFolderError, RunFolderInUseError, require_free, take
from megabatch.launcher import launch
from megabatch.launcher.supervise import Ending, ExitCode
from megabatch.launcher.tracking import send_files

_SECONDS_BETWEEN_LOOKS = 1.0


def require_same(job: Job, run_dir: RunDir, what: str, folder: Path) -> None:
    """Raise ConfigError if the run in this folder was begun with another recipe or other data than it has now."""
    if not run_dir.job.is_file():
        return
    before = read_job(run_dir.job)
    if before.fingerprint() != job.fingerprint():
        seen = f"{what} was begun with {_changed(before, job)}"
        remedy = "Runs of two recipes cannot be compared: put it back, or choose another --folder"
        raise ConfigError([Problem(str(folder), f"{seen}. {remedy}")])


def _changed(before: Job, now: Job) -> str:
    """Return which keys differ, in words."""
    old, new = _leaves(before.recipe.model_dump(mode="json")), _leaves(now.recipe.model_dump(mode="json"))
    keys = [
        key for key in {**old, **new} if old.get(key) != new.get(key) and key.split(".")[0] not in ("name", "tracking")
    ]
    told = [f"{key} {old.get(key)}, which is {new.get(key)} now" for key in keys]
    return "; ".join(told) or "other data"


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {
            k: v for key, child in value.items() for k, v in _leaves(child, f"{path}.{key}" if path else key).items()
        }
    return {path: value}


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Take the folder of a study for this process. Raises ConfigError if another one has it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = take(folder / "study.lock")
    except RunFolderError as error:
        raise ConfigError([Problem("", str(error))]) from None
    try:
        yield
    finally:
        lock.close()


def train(job: Job, run_dir: RunDir) -> Ending:
    """Begin the run, or go on with it from its last checkpoint; return how it ended."""
    _wait_until_free(run_dir)
    if launch.is_finished(run_dir):
        return Ending(ExitCode.DONE, "")
    run_dir.root.mkdir(parents=True, exist_ok=True)
    ending = launch.start(job, run_dir, typer.echo)
    if ending.code == ExitCode.DONE and not launch.is_finished(run_dir):
        return Ending(ExitCode.STOPPED, "")
    if ending.code == ExitCode.DONE:
        send_files(job, run_dir, typer.echo)
    return ending


def _wait_until_free(run_dir: RunDir) -> None:
    """Ranks outlive a launcher that was killed outright: let them finish their run."""
    told = False
    while True:
        try:
            require_free(run_dir.lock)
            return
        except RunFolderInUseError as error:
            if not told:
                typer.echo(
                    f"{error.args[0].partition(':')[0]} still, left over from a killed command: waiting for its end"
                )
            told = True
            time.sleep(_SECONDS_BETWEEN_LOOKS)
