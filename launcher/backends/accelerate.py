"""Backend `accelerate`: `accelerate launch` with a config file made from the cluster file, kept in the run folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from megabatch.configs.cluster import Cluster
from megabatch.configs.hosts import AccelerateLaunch
from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.backends.per_node import LOOPBACK, submission_of, submit
from megabatch.launcher.submission import Submission

__all__ = ["render", "submit"]


def render(job: Job, run_dir: RunDir, trainer_arguments: Sequence[str] = ()) -> Submission:
    """Return the command of the first node, the config file, and what to start on the others."""
    trainer = ["-m", "megabatch.trainer", str(run_dir.job), *trainer_arguments]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(run_dir.accelerate_config)]
    commands = [
        [*launcher, *(["--machine_rank", str(node)] if job.cluster.nodes > 1 else []), *trainer]
        for node in range(job.cluster.nodes)
    ]
    return submission_of(job, run_dir, commands, {run_dir.accelerate_config: _config(job.cluster)})


def _config(cluster: Cluster) -> str:
    backend = cluster.backend
    assert isinstance(backend, AccelerateLaunch)
    values = {
        "compute_environment": "LOCAL_MACHINE",
        # With MULTI_CPU, or use_cpu, accelerate starts one process, whatever num_processes says.
        "distributed_type": "NO" if cluster.num_ranks == 1 else "MULTI_GPU",
        "num_processes": cluster.num_ranks,
        "num_machines": cluster.nodes,
        "machine_rank": 0,
        "main_process_ip": backend.address or LOOPBACK,
        "main_process_port": backend.port,
        "rdzv_backend": "static",
        "mixed_precision": "no",
        "use_cpu": False,
    }
    lines = [f"{key}: {json.dumps(value)}\n" for key, value in values.items()]  # JSON is YAML
    head = "# Written by megabatch launch from the cluster file. Precision and engine are the recipe's.\n"
    return head + "".join(lines)
