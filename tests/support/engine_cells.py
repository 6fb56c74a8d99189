"""Many trainings one after another in one process group: `torchrun ... engine_cells.py RUN_DIR/job.yaml ...`.

Starting ranks takes seconds, a small training a fraction of one, so that a matrix of trainings is started once for
each number of ranks. Each training writes its metrics and sample logs into its own run folder as if it had run alone.
`RUN_DIR/job.yaml@CHECKPOINT` goes on from a copy of a checkpoint, which an earlier training may have written. One that
ends with a TrainingError leaves its message in the run folder, and the others are trained all the same.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megabatch.configs.run_dir import RunDir
    from support.runs import Workplace

STARTED, FINISHED, FAILED = "cell-started", "cell-finished", "cell-failed"


def train_together(
    workplace: Workplace, run_dirs: Sequence[RunDir], num_ranks: int, begin_with: Mapping[RunDir, Path] | None = None
) -> str:
    """Train the jobs of the run folders with one torchrun; return what went wrong, and in which of them, or ""."""
    from support.runs import environment

    command = together(run_dirs, num_ranks, begin_with)
    limit = 300 + 60 * len(run_dirs)  # far more than any needs
    done = subprocess.run(
        command, cwd=workplace.folder, env=environment(), capture_output=True, text=True, timeout=limit, check=False
    )
    last = next((run.root.name for run in reversed(run_dirs) if (run.root / STARTED).exists()), "the start")
    if done.returncode != 0:
        return f"{num_ranks} ranks failed in {last}\n{done.stderr[-6000:]}"
    return "\n".join(file.read_text() for run in run_dirs if (file := run.root / FAILED).exists())


def together(run_dirs: Sequence[RunDir], num_ranks: int, begin_with: Mapping[RunDir, Path] | None = None) -> list[str]:
    """Return the command that trains the jobs of the run folders with one torchrun."""
    copies = {run_dir: f"@{folder}" for run_dir, folder in (begin_with or {}).items()}
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks),
        __file__, *(f"{run_dir.job}{copies.get(run_dir, '')}" for run_dir in run_dirs),
    ]  # fmt: skip


def main() -> int:
    """Train every job that is named, in order, as one rank."""
    from megabatch.configs.load import read_job
    from megabatch.trainer.world import join, leave, read_world

    sys.path[0] = str(Path.cwd())  # as `python -m` does: users' networks lie there
    _fill_empty_tensors()
    trainings = [text.partition("@") for text in sys.argv[1:]]
    first = read_job(Path(trainings[0][0]))
    join(read_world(first.cluster, os.environ), first.cluster)
    try:
        for file, _, begin_with in trainings:
            _train(Path(file), Path(begin_with) if begin_with else None)
            gc.collect()  # DistributedDataParallel is held by a circle of references
    except Exception:
        traceback.print_exc()
        return 1
    leave()
    return 0


def _fill_empty_tensors() -> None:
    """Let torch.empty give huge numbers: a library that reads what nobody wrote fails always, not now and then."""
    import torch

    empty = torch.empty

    def filled(*args: Any, **kwargs: Any) -> torch.Tensor:
        tensor: torch.Tensor = empty(*args, **kwargs)
        small = tensor.numel() < 100_000  # DeepSpeed asks for gigabytes that it never touches
        return tensor.fill_(1e30) if small and tensor.is_floating_point() and tensor.dtype.itemsize >= 4 else tensor

    torch.empty = filled  # type: ignore[assignment]


def _train(file: Path, begin_with: Path | None) -> None:
    import torch.distributed as dist

    from megabatch.configs.load import read_job
    from megabatch.configs.run_dir import RunDir
    from megabatch.trainer import loop
    from megabatch.trainer.build import build
    from megabatch.trainer.errors import TrainingError
    from megabatch.trainer.world import read_world

    job, run_dir = read_job(file), RunDir(file.parent)
    world = read_world(job.cluster, os.environ)
    (run_dir.root / STARTED).touch()
    if begin_with is not None and world.is_main:
        shutil.copytree(begin_with, run_dir.checkpoints / begin_with.name)
    dist.barrier()
    try:
        parts = build(job, world, run_dir, lambda: False)
        try:
            loop.restore(parts)
            loop.train(parts)
        finally:
            parts.close()
    except TrainingError as error:
        (run_dir.root / FAILED).write_text(f"{run_dir.root.name}: {error}")
        return
    (run_dir.root / FINISHED).touch()


if __name__ == "__main__":
    from megabatch.trainer.process import exit_now

    exit_now(main())
