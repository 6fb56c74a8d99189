"""Train several jobs one after another in one process group: `torchrun ... many_jobs.py JOB.yaml JOB.yaml ...`.

What a rank does for one job, without the seconds that importing torch and DeepSpeed takes for each. A job that fails
leaves its message in failed.txt of its run folder, and the others are trained all the same.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from megabatch.configs.load import read_job
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import loop
from megabatch.trainer.build import build
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.process import exit_now
from megabatch.trainer.world import join, leave, read_world


def train(job_file: Path) -> None:
    """Train one job to its end; a part of what trainer/__main__.py does."""
    job = read_job(job_file)
    run_dir = RunDir(job_file.parent)
    try:
        parts = build(job, read_world(job.cluster, os.environ), run_dir, lambda: False)
        try:
            loop.restore(parts)
            loop.train(parts)
        finally:
            parts.close()
    except TrainingError as error:
        (run_dir.root / "failed.txt").write_text(str(error))


def main() -> int:
    jobs = [Path(name).absolute() for name in sys.argv[1:]]
    job = read_job(jobs[0])
    sys.path.insert(0, job.working_folder)
    join(read_world(job.cluster, os.environ), job.cluster)
    try:
        for file in jobs:
            train(file)
    finally:
        leave()
    return 0


if __name__ == "__main__":
    exit_now(main())
