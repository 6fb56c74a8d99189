"""May a run go on from what its folder holds? Refuses another training under the same name, and names the difference.

Going on from nothing, where checkpoints were written before, is refused too: a run never starts anew without saying so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from megabatch.configs.differences import differences
from megabatch.configs.job import Job, decisive
from megabatch.configs.metrics import read_metrics
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import checkpoint
from megabatch.trainer.build import Parts
from megabatch.trainer.checkpoint import Snapshot
from megabatch.trainer.errors import TrainingError, first_line
from megabatch.trainer.own_code import own_code
from megabatch.trainer.provenance import shown_recipe


def require_none_written(parts: Parts) -> None:
    """Raise TrainingError, on all ranks, if there is no checkpoint to go on from though some were written."""
    problem = lost_checkpoints(parts.run_dir) if parts.world.is_main else None
    told = torch.tensor(float(problem is not None), device=parts.world.device)
    parts.step_parts.engine.sum_over_ranks(told)
    if told.item():
        raise TrainingError(problem or f"{parts.run_dir.checkpoints}: rank 0 finds no checkpoint that was written")


def lost_checkpoints(run_dir: RunDir) -> str | None:
    """Return what is wrong with a run without an undamaged checkpoint; None if it never wrote one."""
    there = checkpoint.steps_saved(run_dir)
    written = [line["step"] for line in _saves(run_dir) if "error" not in line]
    if not there and not written:
        return None
    seen = f"{len(there)} damaged" if there else "none"
    last = f", though that of step {written[-1]} was written" if written else ""
    return (
        f"{run_dir.checkpoints}: no undamaged checkpoint to go on from ({seen} there{last}). Put one back, or begin "
        "again in a new run folder: this one does not start anew by itself"
    )


def require_same_training(folder: Path, state: dict[str, Any], job: Job, run_dir: RunDir) -> None:
    """Raise TrainingError if a checkpoint is of another recipe or of other data, with what differs."""
    if state["fingerprint"] == job.fingerprint():
        return
    lines = differences(decisive(state.get("recipe", {})), decisive(shown_recipe(job)))
    lines += [f"data, {line}" for line in differences(state.get("data", {}), job.data_contents)]
    raise TrainingError(
        f"{folder} was written by another recipe or with other data than {run_dir.job} names now: "
        f"{'; '.join(lines) or 'the data differ'}. Going on would mix two trainings: start a new run folder, or put "
        "the old job.yaml back"
    )


def other_code(state: dict[str, Any], job: Job) -> str | None:
    """Return a warning if code in the working folder is not what it was when the checkpoint was written."""
    before, now = state.get("code", {}), own_code(Path(job.working_folder))
    changed = sorted(file for file in before.keys() & now.keys() if before[file] != now[file])
    if not changed:
        return None
    return (
        f"{', '.join(changed)} changed since the checkpoint was written: the rest of the training is that of the new "
        "code, and the whole of neither"
    )


def misfit(folder: Path, snapshot: Snapshot, job: Job, error: Exception) -> TrainingError:
    """Return what to say where a checkpoint of the same recipe does not fit the network."""
    lines = [line.strip() for line in str(error).splitlines()[1:]] or [first_line(error)]
    more = f" and {len(lines) - 2} more" if len(lines) > 2 else ""
    cause = other_code(snapshot.state, job) or "The recipe is the same, so the code that builds the network is another"
    return TrainingError(
        f"{folder} does not fit the network: {' '.join(lines[:2])}{more}. {cause}. Put the old code back, or start a "
        "new run folder"
    )


def _saves(run_dir: RunDir) -> list[dict[str, Any]]:
    return read_metrics(run_dir.metrics, "checkpoint") if run_dir.metrics.exists() else []
