"""RUN_DIR/starts.jsonl: a line when a training starts and one when it ends, over all restarts, requeues and resumes.

Rank 0 writes both. If it is killed it cannot write the second; then the process that started it does, and if that was
killed too, or was not ours, the line is missing: a start without an end was killed. All of it is written aside, so a
full or hanging disk costs a line here and at most some seconds at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from megabatch.configs.errors import ConfigError
from megabatch.configs.job import Job
from megabatch.configs.json_files import tail
from megabatch.configs.run_dir import RunDir
from megabatch.data.errors import DataError
from megabatch.trainer.aside import Aside
from megabatch.trainer.errors import TrainingError, first_line
from megabatch.trainer.gathered import gathered_json
from megabatch.trainer.host import host_name
from megabatch.trainer.line_file import LineFile
from megabatch.trainer.provenance import versions
from megabatch.trainer.state import TrainState
from megabatch.trainer.watch.beats import PeerLostError
from megabatch.trainer.watch.peers import is_of_peer
from megabatch.trainer.world import World

Outcome = Literal["finished", "stopped", "failed"]
_SECONDS_TO_WRITE = 5.0
_LONGEST_CAUSE = 500


@dataclass
class _Training:
    """The training that rank 0 of this process has begun and not ended."""

    lines: LineFile
    attempt: int
    step: Callable[[], int]
    aside: Aside = field(default_factory=Aside)


_begun: list[_Training] = []  # one at most


def tell_start(run_dir: RunDir, world: World, job: Job, state: Callable[[], TrainState], folder: Path | None) -> None:
    """Write that this training starts, from the checkpoint in `folder` if any; every rank must call this together."""
    hosts = list(dict.fromkeys(gathered_json(world.host, world.num_ranks)))
    if not world.is_main:
        return
    attempt = state().attempt
    line = {
        "kind": "start",
        "attempt": attempt,
        "time": round(time.time(), 3),
        "step": state().step,
        "from_checkpoint": None if folder is None else folder.name,
        "ranks": world.num_ranks,
        "hosts": hosts,
        "device": _described(world.device),
        "engine": job.recipe.engine.name,
        "versions": versions(),
    }
    training = _Training(LineFile(run_dir.starts), attempt, lambda: state().step)
    _begun[:] = [training]
    training.aside.begin(lambda: training.lines.append(line))


def tell_end(outcome: Outcome, cause: str | None = None) -> None:
    """Write how the training of this process ends, if it has begun one; the first word on it counts."""
    if not _begun:
        return
    training = _begun.pop()
    line = _end(training.attempt, training.step(), outcome, cause)
    training.aside.wait(_SECONDS_TO_WRITE)  # until the start is written
    training.aside.begin(lambda: training.lines.append(line))
    training.aside.wait(_SECONDS_TO_WRITE)


def tell_failure(rank: int, error: Exception) -> None:
    """Write that the training of this process fails, and why."""
    tell_end("failed", cause_of(rank, error))


def tell_end_of_killed(run_dir: RunDir, since: float, rank: int, how_it_ended: str) -> None:
    """Write the end of a training whose rank 0 could not; to be called where it was started at time `since`."""
    with suppress(OSError):
        last: dict[str, Any] = next(reversed(tail(run_dir.starts)), {})
        if last.get("kind") != "start" or last.get("time", 0.0) < since:
            return
        attempt = last.get("attempt", 0)
        steps = [line.get("step", 0) for line in tail(run_dir.metrics) if line.get("attempt") == attempt]
        cause = f"rank {rank} on {host_name()} {how_it_ended}"
        LineFile(run_dir.starts).append(_end(attempt, max([last.get("step", 0), *steps]), "failed", cause))


def attempt_now() -> int | None:
    """Return the number of the training that this process has begun and not ended."""
    return _begun[0].attempt if _begun else None


def cause_of(rank: int, error: Exception) -> str:
    """Return in one line why the training ends, with the rank whose fault it is and its host."""
    if isinstance(error, PeerLostError):
        return first_line(error)[:_LONGEST_CAUSE]
    known = isinstance(error, (TrainingError, ConfigError, DataError))
    kind = "" if known else f"{type(error).__name__}: "
    lost = "lost another rank: " if is_of_peer(error) else ""
    return f"rank {rank} on {host_name()}: {lost}{kind}{first_line(error)}"[:_LONGEST_CAUSE]


def _end(attempt: int, step: int, outcome: Outcome, cause: str | None) -> dict[str, Any]:
    now = round(time.time(), 3)
    return {"kind": "end", "attempt": attempt, "time": now, "step": step, "outcome": outcome, "cause": cause}


def _described(device: torch.device) -> str:
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
