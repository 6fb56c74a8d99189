"""Train several jobs one after another in one process group: `torchrun ... many_jobs.py JOB.yaml JOB.yaml ...`.

What a rank does for one job, without the seconds that importing torch and DeepSpeed takes for each. `JOB.yaml@FOLDER`
goes on from a copy of the checkpoint in FOLDER, which an earlier job may have written. A job that fails leaves its
message in failed.txt of its run folder, and the others are trained all the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[1]))

from megabatch.configs.load import read_job
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import loop
from megabatch.trainer.build import build
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.process import exit_now
from megabatch.trainer.world import join, leave, read_world
from support.runs import Workplace, environment


def trained_together(workplace: Workplace, num_ranks: int, jobs: list[str], timeout: int = 600) -> None:
    """Start the ranks with torchrun and wait for them; `jobs` are arguments as above."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks), __file__, *jobs,
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=workplace.folder, env=environment(), capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stderr


def train(job_file: Path, checkpoint: Path | None) -> None:
    """Train one job to its end; a part of what trainer/__main__.py does."""
    job = read_job(job_file)
    run_dir = RunDir(job_file.parent)
    world = read_world(job.cluster, os.environ)
    if checkpoint is not None and world.is_main:
        shutil.copytree(checkpoint, run_dir.checkpoints / checkpoint.name)
    dist.barrier()
    try:
        parts = build(job, world, run_dir, lambda: False)
        try:
            loop.restore(parts)
            loop.train(parts)
        finally:
            parts.close()
    except TrainingError as error:
        (run_dir.root / "failed.txt").write_text(str(error))


def main() -> int:
    jobs = [Path(name.partition("@")[0]).absolute() for name in sys.argv[1:]]
    checkpoints = [name.partition("@")[2] for name in sys.argv[1:]]
    job = read_job(jobs[0])
    sys.path.insert(0, job.working_folder)
    join(read_world(job.cluster, os.environ), job.cluster)
    try:
        for file, folder in zip(jobs, checkpoints, strict=True):
            train(file, Path(folder) if folder else None)
    finally:
        leave()
    return 0


if __name__ == "__main__":
    exit_now(main())
