"""Checks before a launch what `engine: accelerate` brings along: the package, its environment, a config file.

The file (`accelerate config` writes it) is never taken in place of recipe or cluster file, nor they in place of it:
every key must agree with them. Keys that only say how `accelerate launch` finds the other machines are left to it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path

from megabatch.configs.accelerate import (
    Objection,
    Rule,
    accumulation,
    another_engine,
    compilation,
    cpu_only,
    downcast,
    environment_problems,
    is_on,
    precision,
    told,
    unknown_engine,
)
from megabatch.configs.cluster import Cluster
from megabatch.configs.engines import Accelerate
from megabatch.configs.errors import ConfigError, Problem, nearest
from megabatch.configs.job import Job
from megabatch.configs.recipe import Recipe
from megabatch.configs.yaml_tree import Tree, read_tree


def accelerate_problems(job: Job, environment: Mapping[str, str]) -> list[Problem]:
    """Return what of accelerate, its variables or its config file keeps a job from being launched.

    `environment` is the launcher's own, which the ranks inherit, below what the cluster file sets for them.
    """
    engine = job.recipe.engine
    problems = environment_problems(job.recipe, job.cluster, {**environment, **job.cluster.environment})
    if not isinstance(engine, Accelerate):
        return problems
    if importlib.util.find_spec("accelerate") is None:
        problems.append(
            Problem(
                "",
                "engine=accelerate, and the package accelerate is not installed here. "
                "Instead: pip install 'megabatch[accelerate]', or engine=ddp",
            )
        )
    if engine.config_file is not None:
        problems += file_problems(job, engine.config_file)
    return problems


def file_problems(job: Job, config_file: str) -> list[Problem]:
    """Return a problem for each key of an accelerate config file that is unknown or contradicts the job."""
    file = Path(job.working_folder) / config_file
    if not file.is_file():
        return [
            Problem("", f"engine.config_file: {file}: no such file. `accelerate config --config_file FILE` writes one")
        ]
    try:
        tree = read_tree(file, config_file)
    except ConfigError as error:
        return error.problems
    return list(_key_problems(job, tree, config_file))


def _key_problems(job: Job, tree: Tree, shown: str) -> Iterator[Problem]:
    if "distributed_type" not in tree.values:
        yield Problem(shown, "the key distributed_type is missing, without which accelerate does not read the file")
    for key, value in tree.values.items():
        where = tree.origin((key,))
        if key not in KEYS:
            yield Problem(where, f"{key}: accelerate has no such key. {nearest(key, KEYS)}")
            continue
        found = KEYS[key](value, job.recipe, job.cluster)
        if found is not None:
            yield Problem(where, told(f"{key}: {value}", found))


def _any(value: object, recipe: Recipe, cluster: Cluster) -> Objection | None:
    """How `accelerate launch` starts its processes is its own affair."""
    return None


def _empty(value: object, recipe: Recipe, cluster: Cluster) -> Objection | None:
    if not value or str(value).lower() == "false":
        return None
    return Objection("nothing in this program reads it", "leave it out")


def _on_this_machine(value: object, recipe: Recipe, cluster: Cluster) -> Objection | None:
    if value == "LOCAL_MACHINE":
        return None
    return Objection(f"the cluster says backend={cluster.backend.name}", "compute_environment: LOCAL_MACHINE")


def _distributed(value: object, recipe: Recipe, cluster: Cluster) -> Objection | None:
    fitting = "NO" if cluster.num_ranks == 1 else "MULTI_CPU" if cluster.device == "cpu" else "MULTI_GPU"
    if value == fitting or (value == "MULTI_GPU" and cluster.device == "cuda"):
        return None
    if value in ("FSDP", "DEEPSPEED"):
        return another_engine(str(value).lower())(True, recipe, cluster)
    return Objection(
        f"the cluster says device={cluster.device} and {cluster.num_ranks} ranks", f"distributed_type: {fitting}"
    )


def _processes(value: object, recipe: Recipe, cluster: Cluster) -> Objection | None:
    if value in (cluster.num_ranks, -1):
        return None
    seen = f"the cluster says nodes={cluster.nodes} and processes_per_node={cluster.processes_per_node}"
    return Objection(seen, f"num_processes: {cluster.num_ranks}, or another cluster")


def _machines(value: object, recipe: Recipe, cluster: Cluster) -> Objection | None:
    if value == cluster.nodes:
        return None
    return Objection(f"the cluster says nodes={cluster.nodes}", f"num_machines: {cluster.nodes}, or another cluster")


def _gpus(value: object, recipe: Recipe, cluster: Cluster) -> Objection | None:
    chosen = cluster.environment.get("CUDA_VISIBLE_DEVICES")
    if value in (None, "all") or str(value) == chosen:
        return None
    return Objection(
        f"cluster.environment.CUDA_VISIBLE_DEVICES is {chosen or 'not set'}",
        f'gpu_ids: all, and cluster.environment={{CUDA_VISIBLE_DEVICES: "{value}"}}',
    )


def _old_half(value: object, recipe: Recipe, cluster: Cluster) -> Objection | None:
    return precision("fp16", recipe, cluster) if is_on(value) else None


def _dynamo_section(value: object, recipe: Recipe, cluster: Cluster) -> Objection | None:
    backend = value.get("dynamo_backend", "no") if isinstance(value, dict) else "no"
    return compilation(backend, recipe, cluster)


def _accumulated(value: object, recipe: Recipe, cluster: Cluster) -> Objection | None:
    """No key of accelerate's files, though its users look for it there."""
    batch = recipe.batch
    seen = f"batch.global_batch={batch.global_batch} and batch.micro_batch={batch.micro_batch} in the recipe decide it"
    return accumulation(value, recipe, cluster) or Objection(seen, "leave it out")


def _affinity(value: object, recipe: Recipe, cluster: Cluster) -> Objection | None:
    if not is_on(value) or is_on(cluster.environment.get("ACCELERATE_CPU_AFFINITY", "")):
        return None
    return Objection(
        "cluster.environment.ACCELERATE_CPU_AFFINITY is not set",
        'cluster.environment={ACCELERATE_CPU_AFFINITY: "1"}, which reaches the ranks however they are started',
    )


KEYS: dict[str, Rule] = {
    "compute_environment": _on_this_machine,
    "distributed_type": _distributed,
    "num_processes": _processes,
    "num_machines": _machines,
    "gpu_ids": _gpus,
    "mixed_precision": precision,
    "fp16": _old_half,
    "downcast_bf16": downcast,
    "use_cpu": cpu_only,
    "gradient_accumulation_steps": _accumulated,
    "dynamo_backend": compilation,
    "dynamo_config": _dynamo_section,
    "enable_cpu_affinity": _affinity,
    "fsdp_config": lambda value, recipe, cluster: another_engine("fsdp")(bool(value), recipe, cluster),
    "deepspeed_config": lambda value, recipe, cluster: another_engine("deepspeed")(bool(value), recipe, cluster),
    "megatron_lm_config": lambda value, recipe, cluster: unknown_engine(bool(value), recipe, cluster),
    "parallelism_config": lambda value, recipe, cluster: unknown_engine(bool(value), recipe, cluster),
    **dict.fromkeys(
        ("machine_rank", "main_process_ip", "main_process_port", "rdzv_backend", "same_network",
         "main_training_function"), _any
    ),
    **dict.fromkeys(
        ("debug", "fp8_config", "mpirun_config", "tpu_name", "tpu_zone", "tpu_use_cluster", "tpu_use_sudo",
         "command_file", "commands", "tpu_vm", "tpu_env"), _empty
    ),
}  # fmt: skip
"""Every key of accelerate's ClusterConfig, and those that it converts or that its users look for."""
