"""The command and environment that start the ranks. The only place that builds argv; nothing is given to a shell."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from megabatch.configs.job import Job


def torchrun_command(job: Job, job_file: Path, trainer_arguments: Sequence[str] = ()) -> list[str]:
    """Return torchrun's argv for all ranks of one machine; --standalone picks a free port."""
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", str(job.cluster.processes_per_node),
        "-m", "megabatch.trainer", str(job_file), *trainer_arguments,
    ]  # fmt: skip


def rank_command(job_file: Path, trainer_arguments: Sequence[str] = ()) -> list[str]:
    """Return the argv of a single rank, without torchrun: what is measured in it begins seconds earlier."""
    return [sys.executable, "-m", "megabatch.trainer", str(job_file), *trainer_arguments]


def rank_environment(job: Job) -> dict[str, str]:
    """Return the variables that the ranks get on top of the launcher's own."""
    variables = {"OMP_NUM_THREADS": str(job.cluster.threads_per_process)}
    if job.cluster.device == "cuda" and job.recipe.deterministic:
        variables["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS is reproducible only with a fixed workspace
    return {**variables, **job.cluster.environment}


def child_environment(job: Job) -> dict[str, str]:
    """Return the whole environment of the child process."""
    return {**os.environ, **rank_environment(job)}
