"""Who am I among the ranks? The only module that reads the environment; everybody else gets a World.

A launcher that silently starts another number of processes than the job asks for would train something else (seen:
`accelerate launch --cpu` starts one), so the world is compared with the job before anything is built.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from megabatch.configs.accelerate import environment_problems
from megabatch.configs.cluster import Cluster
from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.host import host_name
from megabatch.trainer.node.meeting import store_of_meeting

_AFTER_THE_WATCH_SECONDS = 60
_REMEDY = "A launcher sets all of them: unset them for one rank by hand, or start with torchrun or megabatch launch"
_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class World:
    """This process among `num_ranks`, and the device it computes on."""

    rank: int
    num_ranks: int
    rank_of_node: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Return whether this rank writes checkpoints and results."""
        return self.rank == 0

    @property
    def host(self) -> str:
        """Return the name of this machine."""
        return host_name()


def read_world(cluster: Cluster, environment: Mapping[str, str]) -> World:
    """Read RANK, WORLD_SIZE and LOCAL_RANK as torchrun, accelerate launch and deepspeed set them, or srun.py.

    Raises ConfigError for variables that contradict each other, TrainingError for another world than the job's.
    """
    _require_whole(environment)
    rank, num_ranks = int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1"))
    rank_of_node = int(environment.get("LOCAL_RANK", "0"))
    if not cluster.may_have(num_ranks):
        raise TrainingError(
            f"the job asks for {cluster.num_ranks} ranks ({_nodes(cluster)} x {cluster.processes_per_node}), "
            f"but {num_ranks} were started. Start {_remedy(cluster)}, or write a job for {num_ranks} ranks: "
            f"megabatch launch RECIPE cluster.nodes=1 cluster.processes_per_node={num_ranks} --dry-run --write RUN_DIR"
        )
    return World(rank, num_ranks, rank_of_node, _device(cluster, rank_of_node))


def _require_whole(environment: Mapping[str, str]) -> None:
    """Raise ConfigError if a launcher's variables are there in part, or are no numbers: each rank would be alone."""
    given = {name: environment[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if name in environment}
    wrong = [f"{name}={value} is no number" for name, value in given.items() if not _NUMBER.fullmatch(value)]
    if not wrong and ("RANK" in given) != ("WORLD_SIZE" in given):
        here, lacking = ("RANK", "WORLD_SIZE") if "RANK" in given else ("WORLD_SIZE", "RANK")
        wrong = [f"{here}={given[here]} is set, but {lacking} is not"]
    if not wrong and int(given.get("RANK", "0")) >= int(given.get("WORLD_SIZE", "1")):
        wrong = [f"RANK={given['RANK']} is none of WORLD_SIZE={given['WORLD_SIZE']} ranks, which count from 0"]
    if wrong:
        raise ConfigError(Problem("environment", f"{problem}. {_REMEDY}") for problem in wrong)


def refuse_contradictions(job: Job, environment: Mapping[str, str]) -> None:
    """Raise ConfigError where the variables that `accelerate launch` sets contradict the job, whatever its engine."""
    problems = environment_problems(job.recipe, job.cluster, environment)
    if problems:
        raise ConfigError(problems)


def _nodes(cluster: Cluster) -> str:
    fewest = "" if cluster.min_nodes == cluster.nodes else f"{cluster.min_nodes} to "
    return f"{fewest}{cluster.nodes} nodes"


def _remedy(cluster: Cluster) -> str:
    fewest = "" if cluster.min_nodes == cluster.nodes else f"{cluster.min_nodes}:"
    nodes = f"--nnodes {fewest}{cluster.nodes} " if cluster.nodes > 1 else ""
    return f"torchrun {nodes}--nproc-per-node {cluster.processes_per_node} -m megabatch.trainer job.yaml"


def _device(cluster: Cluster, rank_of_node: int) -> torch.device:
    if cluster.device == "cpu":
        return torch.device("cpu")
    available = torch.cuda.device_count()
    if rank_of_node >= available:
        raise TrainingError(
            f"{host_name()}: local rank {rank_of_node} needs a GPU of its own, but torch sees {available}. "
            f"Check CUDA_VISIBLE_DEVICES and the driver, or set cluster.processes_per_node={max(available, 1)}"
        )
    return torch.device("cuda", rank_of_node)


def join(world: World, cluster: Cluster) -> None:
    """Start torch.distributed: gloo for CPU tensors, NCCL for those on a GPU."""
    torch.set_num_threads(cluster.threads_per_process)
    # On a GPU the watch ends the ranks after that time and says why; torch, which would only abort them, comes later.
    later = _AFTER_THE_WATCH_SECONDS if world.device.type == "cuda" else 0
    timeout = timedelta(seconds=cluster.limits.collective_timeout_seconds + later)
    backend = "gloo" if world.device.type == "cpu" else "cpu:gloo,cuda:nccl"
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    if "MASTER_ADDR" in os.environ and "RANK" in os.environ:  # without the second it is left over from elsewhere
        store = store_of_meeting(world.num_ranks, timeout, os.environ)
        if store is None:
            dist.init_process_group(backend, timeout=timeout)
        else:
            dist.init_process_group(backend, timeout=timeout, store=store, rank=world.rank, world_size=world.num_ranks)
    elif world.num_ranks > 1:
        raise ConfigError(
            [Problem("environment", f"{world.num_ranks} ranks, but no MASTER_ADDR to meet at. {_REMEDY}")]
        )
    else:  # a single process, started by hand without a launcher
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks the environment, and nobody else
        alone = dist.HashStore()  # type: ignore[attr-defined]  # public, but not in __all__
        dist.init_process_group(backend, timeout=timeout, store=alone, rank=0, world_size=1)


def leave() -> None:
    """Stop torch.distributed in order: a rank that just exits aborts now and then."""
    if dist.is_initialized():
        dist.destroy_process_group()
