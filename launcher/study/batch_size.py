"""`megabatch tune batch`: the largest micro-batch that fits, and how fast each size is.

One process tries 1, 2, 4, ... until a size does not fit; then each further size between the largest that fits and the
smallest that does not has a process of its own, so that no leftovers of a failed attempt count.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.command import child_environment, rank_command
from megabatch.launcher.pruning import require_no_plan
from megabatch.launcher.save_job import write_job
from megabatch.launcher.study.memory import available_bytes
from megabatch.launcher.study.process import (
    StudyFailedError,
    require_local,
    say_stopping,
    scratch_run,
    without_tracking,
    write_request,
)
from megabatch.launcher.supervise import Ending, ExitCode, run

ENOUGH = 0.95  # of the best rate
_USED_PART = 0.8  # of the memory available, on the CPU
_RESOLUTION = 32  # the largest size is known to one part in this


@dataclass(frozen=True)
class Probe:
    """One micro-batch size. Rate and peak memory are none where it did not fit."""

    micro_batch: int
    fits: bool
    images_per_second: float | None
    peak_bytes: int | None


@dataclass(frozen=True)
class BatchSizes:
    """All probes by size, the largest size that fits, and the smallest that is fast enough.

    `bounded` says that everything up to the largest size tried did fit, so that memory was not the limit.
    """

    probes: tuple[Probe, ...]
    largest: int
    bounded: bool
    saturated: int
    memory_limit: int | None


def measure(job: Job, most: int, seconds: float, memory_limit: int | None) -> BatchSizes:
    """Try sizes up to `most`. Raises StudyFailedError, also where not even one image fits."""
    require_local(job, "tune batch")
    require_no_plan(job, "tune batch")
    limit = memory_limit if memory_limit is not None else _own_share(job)
    job = _alone(without_tracking(job))
    probes = {probe.micro_batch: probe for probe in _probe(job, doubling(most), seconds, limit)}
    fitting = [size for size, probe in probes.items() if probe.fits]
    if not fitting:
        message = f"a micro-batch of 1 does not fit into {_shown(limit)}"
        raise StudyFailedError(
            Ending(ExitCode.FAILED, f"{message}: allow more with --memory-limit, or a smaller model")
        )
    largest, too_large = max(fitting), min((s for s, p in probes.items() if not p.fits), default=None)
    while too_large is not None and (middle := between(largest, too_large)) is not None:
        (probe,) = _probe(job, [middle], seconds, limit)
        probes[middle] = probe
        largest, too_large = (middle, too_large) if probe.fits else (largest, middle)
    ordered = tuple(probes[size] for size in sorted(probes))
    return BatchSizes(ordered, largest, too_large is None, saturation(ordered), limit)


def doubling(most: int) -> list[int]:
    """Return 1, 2, 4, ... and `most` itself.

    >>> doubling(20)
    [1, 2, 4, 8, 16, 20]
    """
    sizes = [1 << power for power in range(most.bit_length()) if 1 << power < most]
    return [*sizes, most]


def between(fits: int, too_large: int) -> int | None:
    """Return the size to try next, or None once the two are close enough.

    >>> between(64, 128), between(64, 66), between(3, 4)
    (96, None, None)
    """
    return (fits + too_large) // 2 if too_large - fits > max(1, fits // _RESOLUTION) else None


def saturation(probes: Sequence[Probe]) -> int:
    """Return the smallest size with at least 95 % of the best rate."""
    rates = {probe.micro_batch: probe.images_per_second for probe in probes if probe.images_per_second is not None}
    best = max(rates.values())
    return min(size for size, rate in rates.items() if rate >= ENOUGH * best)


def _alone(job: Job) -> Job:
    """Return the job on one rank: what one device can hold does not depend on the others."""
    cluster = job.cluster.model_copy(update={"nodes": 1, "processes_per_node": 1})
    return job.model_copy(update={"cluster": cluster})


def _own_share(job: Job) -> int | None:
    """Return what one rank may take on the CPU, which all ranks of a node share; a GPU tells by itself."""
    if job.cluster.device == "cuda":
        return None
    return int(available_bytes() * _USED_PART / job.cluster.processes_per_node)


def _probe(job: Job, sizes: list[int], seconds: float, limit: int | None) -> list[Probe]:
    """Have one process try the sizes until one does not fit."""
    with scratch_run() as run_dir:
        write_job(job, run_dir.job)
        request = write_request(run_dir, "batch", {"sizes": sizes, "seconds": seconds, "memory_limit": limit})
        argv = rank_command(run_dir.job, ["--study", str(request)])
        ending = run(argv, child_environment(job), run_dir, job.working_folder, say_stopping)
        return _outcome(run_dir, ending)


def _outcome(run_dir: RunDir, ending: Ending) -> list[Probe]:
    """Read the probes; a process that the system killed in the midst of one had too little memory for it."""
    lines = _lines(run_dir)
    if ending.code == ExitCode.STOPPED or _was_stopped(run_dir):
        raise StudyFailedError(Ending(ExitCode.STOPPED, "stopped; nothing was written"))
    started = [line["micro_batch"] for line in lines if line["outcome"] == "started"]
    done = [_as_probe(line) for line in lines if line["outcome"] != "started"]
    if ending.code == ExitCode.DONE:
        return done
    if run_dir.failures() or len(started) == len(done):
        raise StudyFailedError(ending)
    return [*done, Probe(started[-1], False, None, None)]


def _was_stopped(run_dir: RunDir) -> bool:
    if not run_dir.study_result.exists():
        return False
    return bool(json.loads(run_dir.study_result.read_text(encoding="utf-8"))["stopped"])


def _lines(run_dir: RunDir) -> list[dict[str, Any]]:
    if not run_dir.probes.exists():
        return []
    return [json.loads(line) for line in run_dir.probes.read_text(encoding="utf-8").splitlines()]


def _as_probe(line: dict[str, Any]) -> Probe:
    fits = line["outcome"] == "fits"
    return Probe(line["micro_batch"], fits, line.get("images_per_second"), line.get("peak_bytes"))


def _shown(limit: int | None) -> str:
    return "the memory of the GPU" if limit is None else f"{limit / (1 << 20):,.0f} MiB"
