"""What this machine has, for the cluster files that say `auto` instead of a number."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NVIDIA_DEVICES = Path("/proc/driver/nvidia/gpus")  # of the driver, so that nothing has to be imported to count them
AUTO = "auto"
AUTOMATIC = ("device", "processes_per_node", "threads_per_process", "loader_threads")
_ON_THIS_MACHINE = ("local", "accelerate", "deepspeed")
_CUDA_THREADS = 4  # for what a rank computes beside its GPU; the other cores load data


def gpus(environment: Mapping[str, str]) -> int:
    """Return how many GPUs a process with these variables would see."""
    found = len(list(NVIDIA_DEVICES.iterdir())) if NVIDIA_DEVICES.is_dir() else 0
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    named = visible.split(",") if visible.strip() else []
    return min(found, len(named))


def cores() -> int:
    """Return how many processors this process may run on."""
    return len(os.sched_getaffinity(0))


def automatic_key_for_others(values: Mapping[str, Any]) -> str | None:
    """Return a key that says `auto` in the values of a cluster whose ranks run on other machines than this."""
    backend = values.get("backend", "local")
    name = backend.get("name") if isinstance(backend, Mapping) else backend
    here = name in _ON_THIS_MACHINE and values.get("nodes", 1) == 1
    return None if here else next((key for key in AUTOMATIC if values.get(key) == AUTO), None)


def with_numbers(values: Mapping[str, Any], gpus: int, cores: int) -> dict[str, Any]:
    """Return a cluster's values with what `auto` stands for on a machine with so many GPUs and cores.

    `device` becomes cuda if there is a GPU. `processes_per_node` is the number of GPUs, or 1: on CPUs one process
    with many threads does best. They share the cores: on CPUs all for computing and a quarter for loading, with GPUs
    four for each process at most, and the rest for loading.

    >>> auto = dict.fromkeys(["device", "processes_per_node", "threads_per_process", "loader_threads"], "auto")
    >>> with_numbers(auto, gpus=8, cores=128)
    {'device': 'cuda', 'processes_per_node': 8, 'threads_per_process': 4, 'loader_threads': 12}
    >>> with_numbers(auto, gpus=0, cores=8)
    {'device': 'cpu', 'processes_per_node': 1, 'threads_per_process': 8, 'loader_threads': 2}
    """
    device = values.get("device", "cpu")
    if device == AUTO:
        device = "cuda" if gpus else "cpu"
    on_gpus = device == "cuda"
    processes = values.get("processes_per_node", 1)
    if processes == AUTO:
        processes = max(1, gpus) if on_gpus else 1
    share = max(1, cores // processes) if isinstance(processes, int) and processes > 0 else 1
    threads = min(_CUDA_THREADS, share) if on_gpus else share
    loader_threads = max(1, share - threads) if on_gpus else max(1, share // 4)
    found = {
        "device": device, "processes_per_node": processes, "threads_per_process": threads,
        "loader_threads": loader_threads,
    }  # fmt: skip
    return {**values, **{key: found[key] for key in AUTOMATIC if values.get(key) == AUTO}}
