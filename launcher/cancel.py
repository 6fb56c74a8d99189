"""Asks a run to save and end: Slurm's job is cancelled, ranks here get the SIGTERM that Ctrl-C gives them.

Over ssh the launcher, which may be on another machine, finds a file in the run folder.
"""

from __future__ import annotations

import os
import signal
import socket

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.load import read_job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher import slurm_queue
from megabatch.launcher.status import RUNNING, WAITING, holds, look, main_process


def cancel(run_dir: RunDir) -> str:
    """End the run and return what was done. Raises ConfigError where it does not run, or not here."""
    status = look(run_dir)
    if is_over_ssh(run_dir) and status.state not in ("finished", "stopped", "not started"):
        run_dir.cancel.touch()
        return "`megabatch launch` is asked to stop, wherever it runs: a checkpoint is saved, then the run ends"
    if status.state not in (RUNNING, WAITING):
        raise ConfigError([Problem(str(run_dir.root), f"does not run: {status.state}. There is nothing to cancel")])
    if status.slurm_job is not None:
        slurm_queue.cancel(status.slurm_job)
        return f"Slurm job {status.slurm_job} is cancelled; ranks that run save first, and it is not requeued"
    stop_ranks(run_dir)
    return "a checkpoint is saved at the end of this step, then the run ends"


def is_over_ssh(run_dir: RunDir) -> bool:
    """Return whether the launcher watches the run over ssh: then it looks for requests in the run folder."""
    try:
        return read_job(run_dir.job).cluster.backend.name == "ssh"
    except ConfigError:  # of another version: what runs it is unknown
        return False


def stop_ranks(run_dir: RunDir) -> None:
    """Send rank 0 the signal that makes all ranks save and end. Raises ConfigError if it is not on this machine."""
    owner = main_process(run_dir)
    if owner is None or owner[1] != socket.gethostname():
        where = "not started" if owner is None else f"on {owner[1]}"
        raise ConfigError([Problem(str(run_dir.root), f"is {where}: write the same command there")])
    if not holds(owner[0], run_dir):
        raise ConfigError([Problem(str(run_dir.root), "has just ended: there is nothing to cancel")])
    os.kill(owner[0], signal.SIGTERM)
