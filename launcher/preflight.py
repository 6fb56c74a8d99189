"""Looks at the world before a launch: shards, devices, programs. Changes nothing, imports no torch."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from megabatch.configs.cluster import Cluster
from megabatch.configs.hosts import Kubernetes, Ssh
from megabatch.configs.machine import gpus
from megabatch.configs.recipe import Recipe
from megabatch.configs.run_dir import CHECKPOINT_PREFIX, RunDir
from megabatch.configs.slurm import Slurm
from megabatch.configs.torch_version import too_old
from megabatch.data.dataset import Dataset, missing_or_changed_shards
from megabatch.launcher.refusals import used_splits


def preflight(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> list[str]:
    """Return one message for each thing that is not as the run needs it."""
    splits = [name for _, name in used_splits(recipe) if name in dataset.split_names]
    old = too_old()
    wrong = [*missing_or_changed_shards(dataset, splits), *_devices(cluster), *_programs(cluster)]
    return [old, *wrong] if old else wrong


def disk_space(folder: Path, checkpoint_bytes: int, checkpoints_kept: int) -> list[str]:
    """Return a message if the run folder's disk cannot hold the checkpoints that are kept, and one being written."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    needed = checkpoint_bytes * (checkpoints_kept + 1)
    if needed <= free:
        return []
    return [
        f"{folder}: {needed:,} bytes are needed for {checkpoints_kept} checkpoints and one being written, {free:,} are "
        "free. Instead: --run-dir on another disk, or make room"
    ]


def room_to_go_on(run_dir: RunDir) -> list[str]:
    """Return a message if the run folder's disk cannot hold one more checkpoint like the newest."""
    saved = sorted(run_dir.checkpoints.glob(f"{CHECKPOINT_PREFIX}*"))
    if not saved:
        return []
    needed = sum(file.stat().st_size for file in saved[-1].rglob("*") if file.is_file())
    free = shutil.disk_usage(run_dir.root).free
    if needed <= free:
        return []
    return [f"{run_dir.root}: {needed:,} bytes are needed for the next checkpoint, {free:,} are free: make room"]


def _devices(cluster: Cluster) -> list[str]:
    if cluster.device != "cuda" or isinstance(cluster.backend, Slurm | Ssh | Kubernetes):
        return []  # it is other machines that need them
    found = gpus(os.environ)
    if found >= cluster.processes_per_node:
        return []
    return [
        f"cluster {cluster.name} asks for {cluster.processes_per_node} GPUs, this machine has {found}. "
        f"Instead: cluster.processes_per_node={found or 1}"
        + ("" if found else " cluster.device=cpu, or --cluster laptop")
    ]


def _programs(cluster: Cluster) -> list[str]:
    if isinstance(cluster.backend, Slurm) and shutil.which("sbatch") is None:
        return ["backend slurm needs `sbatch`, which is not on the PATH: start from a login node of the cluster"]
    if isinstance(cluster.backend, Kubernetes) and shutil.which("kubectl") is None:
        return ["backend kubernetes needs `kubectl`, which is not on the PATH: install it and log in to the cluster"]
    return []
