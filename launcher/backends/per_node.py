"""What backends have in common whose command is started once a node: here if there is one node, else by a person."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.hosts import AccelerateLaunch, DeepSpeedLaunch
from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.command import child_environment, rank_environment
from megabatch.launcher.control_characters import refuse_control_characters
from megabatch.launcher.hosts.look import listener
from megabatch.launcher.submission import Submission, shown_on_hosts
from megabatch.launcher.supervise import Ending, ExitCode, run

LOOPBACK = "127.0.0.1"


def submission_of(
    job: Job,
    run_dir: RunDir,
    commands: Sequence[list[str]],
    files: Mapping[Path, str],
    variables: Mapping[str, str] | None = None,
) -> Submission:
    """Return the submission of the commands, one for each node; `variables` are those that their program needs."""
    environment = {**(variables or {}), **rank_environment(job)}
    refuse_control_characters(job, run_dir, sys.executable, environment)
    nodes = [f"the node that has {_backend(job).address}", *(f"node {node}" for node in range(2, len(commands) + 1))]
    shown = shown_on_hosts(nodes, commands, environment, job.working_folder) if len(commands) > 1 else None
    return Submission(commands[0], environment, files=files, shown=shown)


def submit(submission: Submission, job: Job, run_dir: RunDir, say: Callable[[str], None]) -> Ending:
    """Run the command to its end; with several nodes, say what to start on each. Raises ConfigError."""
    if job.cluster.nodes > 1:
        say(f"now start these, within a few minutes of each other:\n\n{submission}\n")
        return Ending(ExitCode.DONE, "")
    _require_free(_backend(job).port)
    environment = {**submission.environment, **child_environment(job)}
    return run(submission.argv, environment, run_dir, job.working_folder, say)


def _backend(job: Job) -> AccelerateLaunch | DeepSpeedLaunch:
    assert isinstance(job.cluster.backend, AccelerateLaunch | DeepSpeedLaunch)
    return job.cluster.backend


def _require_free(port: int) -> None:
    try:
        listener(LOOPBACK, port).close()
    except OSError as error:
        raise ConfigError([Problem("", str(error))]) from None
