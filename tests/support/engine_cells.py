"""Many trainings one after another in one process group: `torchrun ... engine_cells.py RUN_DIR/job.yaml ...`.

Starting ranks takes seconds, a small training a fraction of one, so that a matrix of trainings is started once for
each number of ranks. Each training writes its metrics and sample logs into its own run folder as if it had run alone.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megabatch.configs.run_dir import RunDir
    from support.runs import Workplace

STARTED, FINISHED = "cell-started", "cell-finished"


def train_together(workplace: Workplace, run_dirs: Sequence[RunDir], num_ranks: int) -> str:
    """Train the jobs of the run folders with one torchrun; return what went wrong, and in which of them, or ""."""
    from support.runs import environment

    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks),
        __file__, *(str(run_dir.job) for run_dir in run_dirs),
    ]  # fmt: skip
    limit = 300 + 60 * len(run_dirs)  # far more than any needs
    done = subprocess.run(
        command, cwd=workplace.folder, env=environment(), capture_output=True, text=True, timeout=limit, check=False
    )
    last = next((run.root.name for run in reversed(run_dirs) if (run.root / STARTED).exists()), "the start")
    return "" if done.returncode == 0 else f"{num_ranks} ranks failed in {last}\n{done.stderr[-6000:]}"


def main() -> int:
    """Train every job that is named, in order, as one rank."""
    from megabatch.configs.load import read_job
    from megabatch.trainer.world import join, leave, read_world

    sys.path[0] = str(Path.cwd())  # as `python -m` does: users' networks lie there
    files = [Path(text) for text in sys.argv[1:]]
    first = read_job(files[0])
    join(read_world(first.cluster, os.environ), first.cluster)
    try:
        for file in files:
            _train(file)
            gc.collect()  # DistributedDataParallel is held by a circle of references
    except Exception:
        traceback.print_exc()
        return 1
    leave()
    return 0


def _train(file: Path) -> None:
    from megabatch.configs.load import read_job
    from megabatch.configs.run_dir import RunDir
    from megabatch.trainer import loop
    from megabatch.trainer.build import build
    from megabatch.trainer.world import read_world

    job, run_dir = read_job(file), RunDir(file.parent)
    (run_dir.root / STARTED).touch()
    parts = build(job, read_world(job.cluster, os.environ), run_dir, lambda: False)
    try:
        loop.restore(parts)
        loop.train(parts)
    finally:
        parts.close()
    (run_dir.root / FINISHED).touch()


if __name__ == "__main__":
    from megabatch.trainer.process import exit_now

    exit_now(main())
