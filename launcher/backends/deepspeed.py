"""Backend `deepspeed`: the `deepspeed` command with a hostfile made from the cluster file, kept in the run folder.

It is started once on every node (`--no_ssh`): over ssh DeepSpeed's own launcher would put variables into argv.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from megabatch.configs.hosts import DeepSpeedLaunch
from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.backends.per_node import LOOPBACK, submission_of, submit
from megabatch.launcher.submission import Submission

__all__ = ["render", "submit"]


def render(job: Job, run_dir: RunDir, trainer_arguments: Sequence[str] = ()) -> Submission:
    """Return the command of the first node, the hostfile, and what to start on the others."""
    cluster, backend = job.cluster, job.cluster.backend
    assert isinstance(backend, DeepSpeedLaunch)
    commands = [
        [
            sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", str(run_dir.hostfile),
            "--no_ssh", "--node_rank", str(node), "--master_addr", backend.address or LOOPBACK,
            "--master_port", str(backend.port), "--no_local_rank", "--quiet",
            "--module", "megabatch.trainer", str(run_dir.job), *trainer_arguments,
        ]
        for node in range(cluster.nodes)
    ]  # fmt: skip
    # The names are never looked up: what counts is how many lines there are, and which of them a node is.
    lines = [f"node{node} slots={cluster.processes_per_node}\n" for node in range(cluster.nodes)]
    without_gpus = {"DS_ACCELERATOR": "cpu"} if cluster.device == "cpu" else {}
    return submission_of(job, run_dir, commands, {run_dir.hostfile: "".join(lines)}, without_gpus)
