"""`megabatch check --cluster`: starts the ranks of a cluster for a look around, and judges what each of them tells.

A check may miss what a long run meets. What it finds is cheaper to know now: other versions on one node, a run folder
that is not shared, a disk or memory that is full, sums that are wrong, a node that is slower than the rest.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher import launch
from megabatch.launcher.save_job import RUNS_FOLDER
from megabatch.launcher.study.process import StudyFailedError, write_request
from megabatch.launcher.supervise import ExitCode

_GIB = 1 << 30
_CLOCK_SECONDS = 5.0  # logs of several machines are read side by side; the training itself asks no clock
_SLOWER = 0.7  # of the usual speed: what is below is named
_SHARED_MEMORY_BYTES = 64 << 20  # NCCL's own advice is more; with less it fails
_MEMORY_BYTES = 1 << 30
_DISK_BYTES = 1 << 30
_SAME_EVERYWHERE = ("megabatch", "torch", "python", "device")
_SPEEDS = {"operations_per_second": "computes", "images_per_second": "reads and decodes images"}


def look_around(job: Job, reads_data: bool, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Start the ranks and return what each found, in their order. Raises StudyFailedError if they do not get there."""
    run_dir = RunDir((RUNS_FOLDER / f".check-{time.strftime('%Y%m%d-%H%M%S')}").absolute())  # where runs will be, too
    run_dir.root.mkdir(parents=True)
    request = write_request(run_dir, "check", {"data": reads_data})
    ending = launch.start(job, run_dir, say, ["--check", str(request)])
    if ending.code != ExitCode.DONE:
        raise StudyFailedError(ending)  # the folder stays, for its logs
    ranks: list[dict[str, Any]] = launch.read_result(run_dir.study_result)["ranks"]
    shutil.rmtree(run_dir.root)
    return ranks


def problems(ranks: Sequence[dict[str, Any]], job: Job) -> list[str]:
    """Return what is wrong, a line each, with host and rank and what to do."""
    found: list[str] = []
    for fact in _SAME_EVERYWHERE:
        found += _differing(ranks, fact)
    for rank in ranks:
        found += [f"{_where(rank)}: {text}" for text in _problems_of(rank, len(ranks), job)]
    for speed, what in _SPEEDS.items():
        found += _slow(ranks, speed, what)
    return found


def _differing(ranks: Sequence[dict[str, Any]], fact: str) -> list[str]:
    values = [rank[fact] for rank in ranks]
    usual = max(values, key=values.count)
    others = sorted({(rank["host"], rank[fact]) for rank in ranks if rank[fact] != usual})
    return [f"{host}: has {fact} {value}, the others {usual}. Install the same on all nodes" for host, value in others]


def _problems_of(rank: dict[str, Any], num_ranks: int, job: Job) -> list[str]:
    found = []
    if rank["cannot_write"]:
        found.append(
            f"cannot write to the run folder: {rank['cannot_write']}. Use a folder that all nodes may write to"
        )
    elif rank["files_seen"] != num_ranks:
        seen = f"sees the files of {rank['files_seen']} of {num_ranks} ranks in the run folder"
        found.append(f"{seen}. It must be on a file system that all nodes share, without delay")
    if not rank["sums_are_right"]:
        found.append("sums over the ranks are wrong. Do not train with this node; its memory or network changes data")
    if abs(rank["clock_seconds"]) > _CLOCK_SECONDS:
        found.append(f"the clock is {rank['clock_seconds']:+.0f} s beside that of rank 0. Start NTP there")
    if rank["memory_free_bytes"] < _MEMORY_BYTES:
        found.append(f"only {_gib(rank['memory_free_bytes'])} of memory are free")
    if rank["disk_free_bytes"] < _DISK_BYTES:
        found.append(f"only {_gib(rank['disk_free_bytes'])} are free on the disk of the run folder")
    if job.cluster.device == "cuda" and rank["shared_memory_free_bytes"] < _SHARED_MEMORY_BYTES:
        seen = f"{_gib(rank['shared_memory_free_bytes'])} of shared memory are free, too little for NCCL"
        found.append(f"{seen}. In a container start it with --shm-size=1g or --ipc=host")
    if rank.get("data_error"):
        found.append(f"the data cannot be read: {rank['data_error']}")
    return found


def _slow(ranks: Sequence[dict[str, Any]], speed: str, what: str) -> list[str]:
    """Name the hosts whose ranks are slower than the usual one; all ranks wait for the slowest."""
    known = [rank for rank in ranks if speed in rank]
    if len({rank["host"] for rank in known}) < 2:
        return []  # ranks of one machine take from each other: no difference between them says anything
    usual = median(rank[speed] for rank in known)
    slow = sorted({(rank["host"], rank[speed] / usual) for rank in known if rank[speed] < _SLOWER * usual})
    remedy = "All ranks wait for it: look at it, or leave it out"
    return [f"{host}: {what} at {share:.0%} of the usual speed. {remedy}" for host, share in slow]


def _where(rank: dict[str, Any]) -> str:
    return f"{rank['host']}, rank {rank['rank']}"


def _gib(number: int) -> str:
    return f"{number / _GIB:.1f} GiB"


TITLES = ("rank", "host", "device", "memory", "disk", "clock s", "sums", "GB/s", "GFLOP/s", "images/s")


def rows(ranks: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return a line for each rank, under `TITLES`; of memory and disk the GiB that are free."""
    return [
        (
            str(rank["rank"]), rank["host"], rank["device"],
            f"{rank.get('device_free_bytes', rank['memory_free_bytes']) / _GIB:.1f}",
            f"{rank['disk_free_bytes'] / _GIB:.1f}",
            f"{rank['clock_seconds']:+.2f}", "right" if rank["sums_are_right"] else "WRONG",
            f"{rank['sent_bytes_per_second'] / 1e9:.2f}", f"{rank['operations_per_second'] / 1e9:,.0f}",
            f"{rank['images_per_second']:,.0f}" if "images_per_second" in rank else "-",
        )
        for rank in ranks
    ]  # fmt: skip


def versions(ranks: Sequence[dict[str, Any]]) -> str:
    """Return what the first rank runs on."""
    return ", ".join(f"{name} {ranks[0][name]}" for name in ("megabatch", "torch", "python"))


def job_to_look_with(recipe: str | None, cluster: str, overrides: Sequence[str]) -> Job:
    """Return the job of a recipe, checked, or one that stands for any where none was named. Raises ConfigError."""
    from megabatch.configs.load import load
    from megabatch.launcher.prepare import job_of, prepare

    if recipe is not None:
        return prepare(recipe, cluster, overrides).job
    return job_of(load("digits", cluster, overrides))
