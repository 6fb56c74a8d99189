"""Talks to Slurm: submits, asks, cancels. RUN_DIR/slurm.json keeps the number of the job, for whoever looks later."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.new_file import FOR_ITS_OWNER, write_new
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.command import slurm_client_environment

ENDED = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "DEADLINE")
_COMMAND_SECONDS = 60


class SlurmError(ConfigError):
    """A command of Slurm failed; says what Slurm said."""

    def __init__(self, said: str):
        super().__init__([Problem("", said)])


@dataclass(frozen=True)
class Queued:
    """What Slurm says of a job: its state in its own word, the reason why it waits, and its nodes."""

    state: str
    reason: str
    nodes: str

    @property
    def has_ended(self) -> bool:
        """Return whether nothing of it runs, or will."""
        return self.state in ENDED


def submit(argv: Sequence[str]) -> str:
    """Run sbatch --parsable and return the number of the job. Raises SlurmError."""
    return _run(argv).strip().partition(";")[0]


def ask(number: str) -> Queued | None:
    """Return what Slurm says of a job; None if it has forgotten it. Raises SlurmError if it gives no answer."""
    try:
        said = _run(["squeue", "--noheader", "--states=all", f"--jobs={number}", "--format=%T|%r|%N"])
    except SlurmError as error:
        if "Invalid job id" in str(error):
            return None
        raise
    lines = said.splitlines()
    return Queued(*lines[0].strip().split("|", 2)) if lines else None


def cancel(number: str) -> None:
    """Run scancel. Raises SlurmError."""
    _run(["scancel", number])


def requeue(number: str) -> None:
    """Run scontrol requeue. Raises SlurmError."""
    _run(["scontrol", "requeue", number])


def _run(argv: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=_COMMAND_SECONDS,
            env=slurm_client_environment(),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"{argv[0]}: {error}") from None
    if done.returncode != 0:
        raise SlurmError(done.stderr.strip())
    return done.stdout


def remember(run_dir: RunDir, number: str) -> None:
    """Write the number of a submitted job into the run folder."""
    hidden = run_dir.slurm_job.with_name(f".{run_dir.slurm_job.name}.{os.getpid()}")
    write_new(hidden, json.dumps({"job": number, "submitted": round(time.time(), 3)}))
    hidden.rename(run_dir.slurm_job)


def number_of(run_dir: RunDir) -> str | None:
    """Return the number of the newest job of the run; None if it was never submitted."""
    if not run_dir.slurm_job.exists():
        return None
    return str(json.loads(run_dir.slurm_job.read_text(encoding="utf-8"))["job"])


def require_none_queued(run_dir: RunDir) -> None:
    """Raise ConfigError if a job of this run waits or runs already: two must not."""
    number = number_of(run_dir)
    if number is None:
        return
    try:
        found = ask(number)
    except SlurmError as error:
        raise ConfigError(
            [Problem("", f"Slurm does not say whether job {number} of this run has ended: {error}")]
        ) from None
    if found is not None and not found.has_ended:
        seen = f"{run_dir.root} is Slurm job {number} already ({found.state}, {found.reason})"
        remedy = f"`megabatch status {run_dir.root}` shows it, `megabatch cancel {run_dir.root}` ends it"
        raise ConfigError([Problem("", f"{seen}: two jobs must not write to one run folder. {remedy}")])


def write_private(file: Path, text: str) -> None:
    """Write a file that only its owner can read, and that nobody could read before."""
    write_new(file, text, FOR_ITS_OWNER)
