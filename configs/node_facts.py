"""What is wrong with a node, by what its ranks tell: for `megabatch check`, and for ranks before they train."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

Facts = dict[str, Any]  # of one rank, as trainer/check_ranks.py tells them
_GIB = 1 << 30
_CLOCK_SECONDS = 5.0  # logs of several machines are read side by side; the training itself asks no clock
_SLOWER = 0.7  # of the usual speed: what is below is named
_SHARED_MEMORY_BYTES = 64 << 20  # NCCL's own advice is more; with less it fails
_MEMORY_BYTES = 1 << 30
_DISK_BYTES = 1 << 30
_SAME_FOR_ONE_TRAINING = ("megabatch", "torch", "python")
_SPEEDS = {"operations_per_second": "computes", "images_per_second": "reads and decodes images"}


class Finding(NamedTuple):
    """Something wrong with a host, or one rank there; with an `unfit` one no training may begin."""

    host: str
    rank: int | None
    text: str
    unfit: bool = False

    @property
    def told(self) -> str:
        """Return where it is, and what."""
        where = self.host if self.rank is None else f"{self.host}, rank {self.rank}"
        return f"{where}: {self.text}"


def judge(ranks: Sequence[Facts], device: str) -> list[Finding]:
    """Return what is wrong; `device` is that of the cluster file. Facts that were not asked for are not judged."""
    found: list[Finding] = []
    for fact in (*_SAME_FOR_ONE_TRAINING, "device"):
        found += _differing(ranks, fact)
    for rank in ranks:
        if rank["job"] != ranks[0]["job"]:
            text = "reads another job.yaml than rank 0: it sees the run folder as it was. Start again in a minute"
            found.append(Finding(rank["host"], rank["rank"], text, unfit=True))
        found += _of_rank(rank, device)
    for speed, what in _SPEEDS.items():
        found += _slow(ranks, speed, what)
    return found


def _differing(ranks: Sequence[Facts], fact: str) -> list[Finding]:
    values = [rank[fact] for rank in ranks]
    usual = max(values, key=values.count)
    others = sorted({(rank["host"], rank[fact]) for rank in ranks if rank[fact] != usual})
    return [
        Finding(
            host, None, f"has {fact} {value}, the others {usual}. Install the same on all nodes",
            unfit=fact in _SAME_FOR_ONE_TRAINING,
        )
        for host, value in others
    ]  # fmt: skip


def _of_rank(rank: Facts, device: str) -> list[Finding]:
    def finding(text: str, unfit: bool = False) -> Finding:
        return Finding(rank["host"], rank["rank"], text, unfit)

    found = []
    if rank["cannot_write"]:
        seen = f"cannot write to the run folder: {rank['cannot_write']}"
        found.append(finding(f"{seen}. Use a folder that all nodes may write to", unfit=True))
    elif rank["unseen"]:
        unseen = ", ".join(map(str, rank["unseen"]))
        seen = f"does not see in the run folder what rank {unseen} wrote there"
        found.append(finding(f"{seen}. It must be on a file system that all nodes share, without delay"))
    if not rank["sums_are_right"]:
        text = "sums over the ranks are wrong. Do not train with this node; its memory or network changes data"
        found.append(finding(text, unfit=True))
    if abs(rank["clock_seconds"]) > _CLOCK_SECONDS:
        found.append(finding(f"the clock is {rank['clock_seconds']:+.0f} s beside that of rank 0. Start NTP there"))
    if rank["memory_free_bytes"] < _MEMORY_BYTES:
        found.append(finding(f"only {gib(rank['memory_free_bytes'])} of memory are free"))
    if rank["disk_free_bytes"] < _DISK_BYTES:
        found.append(finding(f"only {gib(rank['disk_free_bytes'])} are free on the disk of the run folder"))
    if device == "cuda" and rank["shared_memory_free_bytes"] < _SHARED_MEMORY_BYTES:
        seen = f"{gib(rank['shared_memory_free_bytes'])} of shared memory are free, too little for NCCL"
        found.append(finding(f"{seen}. In a container start it with --shm-size=1g or --ipc=host", unfit=True))
    if rank.get("data_error"):
        found.append(finding(f"the data cannot be read: {rank['data_error']}"))
    return found


def _slow(ranks: Sequence[Facts], speed: str, what: str) -> list[Finding]:
    """Name the hosts whose ranks are slower than the usual one; all ranks wait for the slowest."""
    known = [rank for rank in ranks if speed in rank]
    if len({rank["host"] for rank in known}) < 2:
        return []  # ranks of one machine take from each other: no difference between them says anything
    usual = median(rank[speed] for rank in known)
    slow = sorted({(rank["host"], rank[speed] / usual) for rank in known if rank[speed] < _SLOWER * usual})
    remedy = "All ranks wait for it: look at it, or leave it out"
    return [Finding(host, None, f"{what} at {share:.0%} of the usual speed. {remedy}") for host, share in slow]


def gib(number: int) -> str:
    """Return bytes as GiB."""
    return f"{number / _GIB:.1f} GiB"
