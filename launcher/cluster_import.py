"""An accelerate config, or a hostfile of DeepSpeed or MPI, as a cluster file.

Every key is accounted for: it becomes part of the cluster file, or it is told where its like is written here, or that
it has no meaning. Keys that contradict each other are mistakes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from megabatch.configs.cluster import Cluster
from megabatch.configs.errors import ConfigError, Problem, nearest
from megabatch.configs.load import validate
from megabatch.configs.yaml_tree import Tree, read_tree
from megabatch.launcher.accelerate_config import KEYS
from megabatch.launcher.hosts.hostfile import read_hostfile

_GPUS = "MULTI_GPU"
_DISTRIBUTED = ("NO", "MULTI_CPU", _GPUS, "FSDP", "DEEPSPEED")
_ENGINES = {"FSDP": "fsdp", "DEEPSPEED": "deepspeed"}
_RECIPES = {
    "mixed_precision": "precision in the recipe",
    "fp16": "precision: fp16 in the recipe",
    "gradient_accumulation_steps": "batch in the recipe decides it",
    "dynamo_backend": "model.compile in the recipe",
    "dynamo_config": "model.compile in the recipe",
    "fsdp_config": "engine: fsdp in the recipe, with options of its own (docs/engines.md)",
    "deepspeed_config": "engine: deepspeed in the recipe, with options of its own (docs/engines.md)",
}
_USED = ("compute_environment", "distributed_type", "num_processes", "num_machines", "use_cpu", "gpu_ids",
         "main_process_ip", "main_process_port", "enable_cpu_affinity")  # fmt: skip
_PLAIN = {"machine_rank": "every node says its own when it is started", "rdzv_backend": "the ranks meet as in static"}
_SAYS_NOTHING: tuple[Any, ...] = (None, "no", "NO", "none", "static", "main", False, "false", "no_fallback", {}, [], "")


class Imported(NamedTuple):
    """The values of a cluster file, and what to tell about keys that are not among them."""

    values: dict[str, Any]  # Any: plain YAML values
    told: list[str]


def imported(file: Path, ranks_per_host: int | None, device: str | None) -> Imported:
    """Read either kind of file: one that ends in .yaml or .yml is an accelerate config. Raises ConfigError.

    `ranks_per_host` and `device` say of a hostfile what stands in none; an accelerate config has both.
    """
    if file.suffix not in (".yaml", ".yml"):
        found = _of_hostfile(file, ranks_per_host, device or "cuda")
    elif ranks_per_host is None and device is None:
        found = _of_accelerate(file)
    else:
        raise ConfigError(
            [Problem(str(file), "an accelerate config says how many ranks and which device: leave it out")]
        )
    validate(Cluster, Tree(dict(found.values), {(): str(file)}))
    return found


def _of_hostfile(file: Path, ranks_per_host: int | None, device: str) -> Imported:
    hosts = read_hostfile(file, str(file))
    counts = {ranks_per_host if host.slots is None else host.slots for host in hosts}
    if None in counts:
        said = "has hosts without a number of slots. Write HOST slots=N, or give --ranks-per-host N"
        raise ConfigError([Problem(str(file), said)])
    if len(counts | ({ranks_per_host} - {None})) > 1:
        shown = ", ".join(f"{host.name} {host.slots or ranks_per_host}" for host in hosts)
        given = "" if ranks_per_host is None else f", and --ranks-per-host is {ranks_per_host}"
        said = (
            f"the hosts have different numbers of slots ({shown}){given}. All hosts take the same number of ranks here"
        )
        raise ConfigError([Problem(str(file), said)])
    values = {
        "name": _name(file),
        "nodes": len(hosts),
        "processes_per_node": counts.pop(),
        "device": device,
        "backend": {"name": "ssh", "hosts": [host.name for host in hosts]},
    }
    return Imported(
        values, ["threads_per_process and loader_threads stand in no hostfile: write them for your machines"]
    )


def _of_accelerate(file: Path) -> Imported:
    tree = read_tree(file, str(file))
    problems = [
        Problem(tree.origin((key,)), f"{key}: accelerate has no such key. {nearest(key, KEYS)}")
        for key in tree.values if key not in KEYS
    ]  # fmt: skip
    if "distributed_type" not in tree.values:
        problems.append(Problem(str(file), "has no distributed_type: accelerate would not read it either"))
    for key, message in _contradictions(tree.values).items():
        problems.append(Problem(tree.origin((key,)), f"{key}: {message}"))
    if problems:
        raise ConfigError(problems)
    found = tree.values
    nodes = found.get("num_machines", 1)
    backend = {"name": "accelerate", "address": found.get("main_process_ip"), "port": found.get("main_process_port")}
    values = {
        "name": _name(file),
        "nodes": nodes,
        "processes_per_node": found.get("num_processes", 1) // nodes,
        "device": _device(found),
        "backend": {key: value for key, value in backend.items() if value not in (None, 0)},
        "environment": _environment(found),
    }
    return Imported({key: value for key, value in values.items() if value}, _told(found))


def _contradictions(found: dict[str, Any]) -> dict[str, str]:
    """Return what is wrong with each key, or with two of them."""
    kind, ranks, nodes = found.get("distributed_type"), found.get("num_processes", 1), found.get("num_machines", 1)
    wrong: dict[str, str] = {}
    if found.get("compute_environment", "LOCAL_MACHINE") != "LOCAL_MACHINE":
        wrong["compute_environment"] = f"{found['compute_environment']} is nothing that can be started here"
    if kind is not None and kind not in _DISTRIBUTED:
        wrong["distributed_type"] = (
            f"{kind} is nothing that can be trained with here. {nearest(str(kind), _DISTRIBUTED)}"
        )
    for key, value in (("num_processes", ranks), ("num_machines", nodes)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            wrong[key] = f"{value!r} is no number of processes or machines. Write a number above 0"
    if wrong:
        return wrong
    if ranks % nodes:
        wrong["num_processes"] = f"{ranks} on num_machines={nodes}: every machine must have as many as the others"
    if kind == "NO" and ranks > 1:
        wrong["distributed_type"] = f"NO, but num_processes is {ranks}. One of the two is wrong"
    if kind == _GPUS and found.get("use_cpu") is True:
        wrong["use_cpu"] = "true, but distributed_type is MULTI_GPU. One of the two is wrong"
    if nodes > 1 and not found.get("main_process_ip"):
        wrong["num_machines"] = f"{nodes}, but no main_process_ip says where they meet. Write it"
    chosen = _gpu_ids(found)
    if chosen is not None and not re.fullmatch(r"\d+(,\d+)*", chosen):
        wrong["gpu_ids"] = f"{chosen!r} is no list of numbers"
    elif chosen is not None and chosen.count(",") + 1 != ranks // nodes:
        wrong["gpu_ids"] = f"{chosen} has another number of GPUs than a machine has processes, {ranks // nodes}"
    return wrong


def _device(found: dict[str, Any]) -> str:
    on_cpu = found["distributed_type"] == "MULTI_CPU" or found.get("use_cpu") is True
    return "cpu" if on_cpu else "cuda"


def _gpu_ids(found: dict[str, Any]) -> str | None:
    chosen = found.get("gpu_ids")
    return None if chosen in (None, "all") else str(chosen).replace(" ", "")


def _environment(found: dict[str, Any]) -> dict[str, str]:
    chosen = _gpu_ids(found)
    visible = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
    return {**visible, **({"ACCELERATE_CPU_AFFINITY": "1"} if found.get("enable_cpu_affinity") is True else {})}


def _told(found: dict[str, Any]) -> list[str]:
    told = []
    if found["distributed_type"] in _ENGINES:
        kind = found["distributed_type"]
        told.append(f"distributed_type: {kind}: engine: {_ENGINES[kind]} in the recipe")
    for key, value in found.items():
        if key in _USED or value in _SAYS_NOTHING or (isinstance(value, str) and value.lower() == "no"):
            continue
        instead = _RECIPES.get(key) or _PLAIN.get(key) or "has no meaning here"
        told.append(f"{key}: {value if not isinstance(value, dict) else '...'}: {instead}")
    return told


def _name(file: Path) -> str:
    """Return a name for the cluster: the file's, with signs that a name may have."""
    return re.sub(r"[^A-Za-z0-9_.\-]", "-", file.stem).lstrip("_.-")[:80] or "imported"
