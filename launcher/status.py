"""What a run is doing, learned from its folder alone, and from Slurm if it was submitted there. No torch.

The run may be on another machine that shares the folder: then only what it writes tells whether it lives.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabatch.configs.json_files import read_json, tail
from megabatch.configs.run_dir import RunDir
from megabatch.configs.run_lock import owner_in, said_in
from megabatch.launcher import slurm_queue
from megabatch.launcher.requeue import newest_step, read_attempts

RUNNING, WAITING = "running", "waiting"
_SILENT_SECONDS = 120.0  # without a sign of life a run on another machine counts as gone
_RECENT_STEPS = 20
_OWNER = re.compile(r"process (\d+) on (\S+)")


@dataclass(frozen=True)
class Status:
    """One look at a run. Without a number it is not known, or there is none yet."""

    run_dir: str
    state: str  # not started, waiting, running, stopped, finished, failed, gone
    detail: str
    slurm_job: str | None
    attempt: int | None
    step: int | None
    samples_seen: int | None
    loss: float | None
    samples_per_second: float | None
    data_wait_share: float | None
    checkpoint_step: int
    batch_attempts: int  # of the run's batch jobs that came to an end; those that Slurm killed are not among them
    seconds_since_sign: float | None
    ranks: tuple[dict[str, Any], ...]


def look(run_dir: RunDir) -> Status:
    """Return what the run is doing now."""
    steps = recent_steps(run_dir)
    last = steps[-1] if steps else {}
    number = slurm_queue.number_of(run_dir)
    state, detail = _state(run_dir, number)
    return Status(
        run_dir=str(run_dir.root), state=state, detail=detail, slurm_job=number,
        attempt=last.get("attempt"), step=last.get("step"), samples_seen=last.get("samples_seen"),
        loss=last.get("loss"), samples_per_second=_rate(steps) if state == RUNNING else None,
        data_wait_share=_mean([line["data_wait_share"] for line in steps]) if state == RUNNING else None,
        checkpoint_step=newest_step(run_dir), batch_attempts=len(read_attempts(run_dir)),
        seconds_since_sign=seconds_since_sign(run_dir), ranks=tuple(_ranks(run_dir)) if state == RUNNING else (),
    )  # fmt: skip


def state_of(run_dir: RunDir) -> tuple[str, str]:
    """Return the state of a run and what is known about it, in words; about a finished one Slurm is not asked."""
    if read_json(run_dir.result).get("outcome") == "finished":
        return "finished", ""
    return _state(run_dir, slurm_queue.number_of(run_dir))


def recent_steps(run_dir: RunDir) -> list[dict[str, Any]]:
    """Return the last lines of metrics.jsonl that tell of steps."""
    return [line for line in tail(run_dir.metrics) if line.get("kind") == "step"][-_RECENT_STEPS:]


def _state(run_dir: RunDir, number: str | None) -> tuple[str, str]:
    queued = None
    if number is not None:
        try:
            queued = slurm_queue.ask(number)
        except slurm_queue.SlurmError as error:
            return _state_of_files(run_dir, f"Slurm does not answer: {error}")
    if queued is not None and queued.state == "PENDING":
        return WAITING, f"in Slurm's queue: {queued.reason}"
    if queued is not None and not queued.has_ended:
        return RUNNING, f"{queued.state.lower()} on {queued.nodes}"
    return _state_of_files(
        run_dir, "" if queued is None else f"Slurm says {queued.state}", has_ended=number is not None
    )


def _state_of_files(run_dir: RunDir, said: str, has_ended: bool = False) -> tuple[str, str]:
    outcome = read_json(run_dir.result).get("outcome")
    if outcome in ("finished", "stopped"):
        return outcome, said
    if (failure := _first_failure(run_dir)) is not None:
        return "failed", f"rank {failure['rank']} on {failure['host']}: {failure['message'].splitlines()[0]}"
    owner = main_process(run_dir)
    if owner is None:
        return "not started", said
    if has_ended:
        return "failed", said or "Slurm does not know the job any more, and it left no result"
    pid, host = owner
    if host == socket.gethostname():
        return (RUNNING, f"on this machine, rank 0 is process {pid}") if holds(pid, run_dir) else ("gone", said)
    silent = seconds_since_sign(run_dir)
    if silent is not None and silent < _SILENT_SECONDS:
        return RUNNING, f"on {host}"
    return "gone", f"it was on {host}, which has given no sign of life for {silent or 0:.0f} s"


def main_process(run_dir: RunDir) -> tuple[int, str] | None:
    """Return process number and host of the rank that has, or had, the lock on the run folder."""
    found = _OWNER.fullmatch(owner_in(said_in(run_dir.lock)))
    return None if found is None else (int(found[1]), found[2])


def holds(pid: int, run_dir: RunDir) -> bool:
    """Return whether a process of this machine has the lock on the run folder now; a dead one of that number has not.

    /proc/locks has a line `1: FLOCK ADVISORY WRITE pid major:minor:inode 0 EOF` for each lock; proc_locks(5).
    """
    try:
        inode = run_dir.lock.stat().st_ino
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    fields = [line.split() for line in lines]
    return any(len(f) > 5 and f[-4] == str(pid) and f[-3].rpartition(":")[2] == str(inode) for f in fields)


def seconds_since_sign(run_dir: RunDir) -> float | None:
    """Return how long ago a file changed that a living run writes; None if there is none."""
    changed = [file.stat().st_mtime for file in (run_dir.metrics, run_dir.ranks) if file.exists()]
    return max(0.0, time.time() - max(changed)) if changed else None


def _first_failure(run_dir: RunDir) -> dict[str, Any] | None:
    failures = [failure for file in run_dir.failures() if (failure := read_json(file))]
    return min(failures, key=lambda one: (one["of_another_rank"], one["time"]), default=None)


def _ranks(run_dir: RunDir) -> Sequence[dict[str, Any]]:
    ranks: Sequence[dict[str, Any]] = read_json(run_dir.ranks).get("ranks", ())
    return ranks


def _rate(steps: Sequence[dict[str, Any]]) -> float | None:
    return _mean([line["samples_per_second"] for line in steps])


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
