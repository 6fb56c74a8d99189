"""The command and environment that start the ranks. The only place that builds argv; nothing is given to a shell."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from megabatch.configs.cluster import Torchrun
from megabatch.configs.job import Job

# What torchrun needs if ranks are to be started anew. Its agents share one store for all starts, in which new ranks
# find the addresses of old ones ("connection refused"), and a machine that joins later waits in vain for the place of
# the store (both seen with torch 2.15). Without sharing, rank 0 makes a store of its own at each start.
_RESTARTABLE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}

# What tells Slurm's commands where Slurm is. All other variables of that kind describe the allocation in which the
# command was typed (salloc): sbatch would hand them on to the job, and srun would believe them there.
_OF_THE_CLIENT = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_CLUSTERS", "SLURM_UMASK"}
# Of sbatch's own variables those that would overrule a #SBATCH line of ours.
_OVERRULING = {
    "SBATCH_CONSTRAINT", "SBATCH_JOB_NAME", "SBATCH_NO_REQUEUE", "SBATCH_OPEN_MODE", "SBATCH_OUTPUT", "SBATCH_REQUEUE",
    "SBATCH_SIGNAL", "SBATCH_TIMELIMIT", "SBATCH_ARRAY_INX", "SBATCH_EXPORT", "SBATCH_IGNORE_PBS",
}  # fmt: skip


def torchrun_command(
    job: Job, job_file: Path, meeting: Sequence[str], max_restarts: int, trainer_arguments: Sequence[str] = ()
) -> list[str]:
    """Return torchrun's argv for the ranks of one machine; `meeting` are its options for how the machines meet."""
    restarts = ["--max-restarts", str(max_restarts)] if max_restarts else []
    return [
        sys.executable, "-m", "torch.distributed.run", *meeting,
        "--nproc-per-node", str(job.cluster.processes_per_node), *restarts,
        "-m", "megabatch.trainer", str(job_file), *trainer_arguments,
    ]  # fmt: skip


def node_command(
    job_file: Path, trainer_arguments: Sequence[str] = (), meeting: Sequence[str] = (), python: str | None = None
) -> list[str]:
    """Return the argv of the process that starts all ranks of a machine; `meeting` tells it of the others."""
    return [python or sys.executable, "-m", "megabatch.trainer.node", *meeting, str(job_file), *trainer_arguments]


def meeting_of(nodes: int, node: int, endpoint: str) -> list[str]:
    """Return the options by which one of several nodes finds the others: at HOST:PORT of the first."""
    return ["--nodes", str(nodes), "--node-rank", str(node), "--meet", endpoint]


def rank_command(job_file: Path, trainer_arguments: Sequence[str] = ()) -> list[str]:
    """Return the argv of a single rank, with no process above it."""
    return [sys.executable, "-m", "megabatch.trainer", str(job_file), *trainer_arguments]


def rank_environment(job: Job) -> dict[str, str]:
    """Return the variables that the ranks get on top of the launcher's own."""
    variables = {"OMP_NUM_THREADS": str(job.cluster.threads_per_process)}
    if job.cluster.device == "cuda" and job.recipe.deterministic:
        variables["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS is reproducible only with a fixed workspace
    if isinstance(job.cluster.backend, Torchrun):
        variables |= _RESTARTABLE
    return {**variables, **job.cluster.environment}


def passed_on(names: Sequence[str]) -> dict[str, str]:
    """Return those of the named variables that this process has, for ranks on other machines."""
    return {name: os.environ[name] for name in names if name in os.environ}


def child_environment(job: Job) -> dict[str, str]:
    """Return the whole environment of the child process."""
    return {**os.environ, **rank_environment(job)}


def slurm_client_environment() -> dict[str, str]:
    """Return the environment for Slurm's commands."""
    return without_allocation(os.environ)


def without_allocation(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without what an outer allocation left in it, and what would overrule a #SBATCH line.

    >>> without_allocation({"SLURM_CONF": "/s", "SLURM_JOB_ID": "7", "SBATCH_SIGNAL": "9", "SBATCH_ACCOUNT": "a"})
    {'SLURM_CONF': '/s', 'SBATCH_ACCOUNT': 'a'}
    """
    return {
        name: value
        for name, value in environment.items()
        if name in _OF_THE_CLIENT or not (name.startswith(("SLURM_", "SRUN_", "SLURMD_")) or name in _OVERRULING)
    }
