"""`megabatch check --cluster`: starts the ranks of a cluster for a look around, and shows what each of them tells.

A check may miss what a long run meets. What it finds is cheaper to know now: other versions on one node, a run folder
that is not shared, a disk or memory that is full, sums that are wrong, a node that is slower than the rest.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.configs.slurm import Slurm
from megabatch.launcher import launch, slurm_queue
from megabatch.launcher.save_job import RUNS_FOLDER
from megabatch.launcher.study.process import StudyFailedError, write_request
from megabatch.launcher.supervise import Ending, ExitCode

_GIB = 1 << 30
_POLL_SECONDS = 0.5


def look_around(job: Job, reads_data: bool, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Start the ranks and return what each found, in their order. Raises StudyFailedError if they do not get there."""
    run_dir = RunDir((RUNS_FOLDER / f".check-{time.strftime('%Y%m%d-%H%M%S')}").absolute())  # where runs will be, too
    run_dir.root.mkdir(parents=True)
    request = write_request(run_dir, "check", {"data": reads_data})
    ending = launch.start(job, run_dir, say, ["--check", str(request)])
    if isinstance(job.cluster.backend, Slurm) and ending.code == ExitCode.DONE:
        ending = _wait_for_slurm(run_dir)
    if ending.code != ExitCode.DONE:
        raise StudyFailedError(ending)  # the folder stays, for its logs
    ranks: list[dict[str, Any]] = launch.read_result(run_dir.study_result)["ranks"]
    shutil.rmtree(run_dir.root)
    return ranks


def _wait_for_slurm(run_dir: RunDir) -> Ending:
    """Wait for the job just submitted; Ctrl-C cancels it."""
    number = slurm_queue.number_of(run_dir)
    assert number is not None
    try:
        while (queued := slurm_queue.ask(number)) is not None and not queued.has_ended:
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        slurm_queue.cancel(number)
        return Ending(ExitCode.STOPPED, f"Slurm job {number} is cancelled")
    if run_dir.study_result.exists():
        return Ending(ExitCode.DONE, "")
    state = "has ended" if queued is None else f"ended as {queued.state}"
    return Ending(
        ExitCode.FAILED, f"Slurm job {number} {state} before the ranks had told anything; logs: {run_dir.logs}"
    )


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
