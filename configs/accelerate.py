"""What settings of Hugging Face accelerate, in its environment variables or in a config file, say against a run.

`accelerate launch` hands its options to every rank as ACCELERATE_* variables, whatever the engine. Where one of them
asks for something else than the recipe or the cluster file, neither is silently taken: it is an error that names both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from megabatch.configs.cluster import Cluster
from megabatch.configs.errors import Problem
from megabatch.configs.recipe import Recipe


class Objection(NamedTuple):
    """Why a setting cannot stand beside a run: what it meets there, and what to write instead."""

    against: str
    instead: str


Rule = Callable[[object, Recipe, Cluster], Objection | None]
"""Gets the value of a setting; returns None where it agrees with the run."""


def environment_problems(recipe: Recipe, cluster: Cluster, environment: Mapping[str, str]) -> list[Problem]:
    """Return a problem for each ACCELERATE_* variable that contradicts recipe or cluster."""
    found = {name: rule(environment[name], recipe, cluster) for name, rule in _VARIABLES.items() if name in environment}
    return [
        Problem("environment", told(f"{name}={environment[name]}", objection))
        for name, objection in found.items()
        if objection is not None
    ]


def told(setting: str, objection: Objection) -> str:
    """Return the message for a setting that cannot stand beside a run."""
    return f"{setting}, but {objection.against}. Instead: {objection.instead}"


def is_on(value: object) -> bool:
    """Return whether accelerate takes a value for "yes"."""
    return str(value).lower() in ("1", "true", "yes", "y", "on", "t")


def precision(value: object, recipe: Recipe, cluster: Cluster) -> Objection | None:
    """`no` agrees with every recipe: it asks accelerate to leave precision alone, as this program does."""
    name = recipe.precision.name
    if str(value).lower() in ("no", "none", "", name):
        return None
    return Objection(f"the recipe says precision={name}", f"precision={value} in the recipe, or `no` for accelerate")


def accumulation(value: object, recipe: Recipe, cluster: Cluster) -> Objection | None:
    """The batch decides how many micro-batches a rank has in a step."""
    batch = recipe.batch
    fitting = -(-batch.global_batch // (batch.micro_batch * cluster.num_ranks))
    if str(value) in ("1", str(fitting)):
        return None
    return Objection(
        f"batch.global_batch={batch.global_batch} in micro-batches of {batch.micro_batch} on {cluster.num_ranks} ranks "
        f"makes {fitting}",
        "leave it out: the batch in the recipe decides it",
    )


def compilation(value: object, recipe: Recipe, cluster: Cluster) -> Objection | None:
    """Compiling is the recipe's to ask for."""
    if str(value).lower() in ("no", "none", ""):
        return None
    compiled = recipe.model.compile
    here = "has no model.compile" if compiled is None else f"says model.compile.backend={compiled.backend}"
    return Objection(
        f"the recipe {here}",
        f"model.compile={{backend: {str(value).lower()}}} in the recipe, and `no` for accelerate",
    )


def cpu_only(value: object, recipe: Recipe, cluster: Cluster) -> Objection | None:
    """The cluster file decides the device."""
    if not is_on(value) or cluster.device == "cpu":
        return None
    return Objection(
        f"the cluster says device={cluster.device}", "cluster.device=cpu, or accelerate launch without --cpu"
    )


def downcast(value: object, recipe: Recipe, cluster: Cluster) -> Objection | None:
    """Only TPUs downcast."""
    if not is_on(value):
        return None
    return Objection(
        f"the cluster says device={cluster.device}, which is no TPU", "leave it out; precision=bf16 is the recipe's"
    )


def another_engine(engine: str) -> Rule:
    """Return the rule for a switch that makes accelerate use an engine which is one of this program's own."""

    def rule(value: object, recipe: Recipe, cluster: Cluster) -> Objection | None:
        if not is_on(value):
            return None
        return Objection(
            f"the recipe says engine={recipe.engine.name}",
            f"engine={engine} in the recipe with options of its own, and accelerate launch --multi_gpu",
        )

    return rule


def unknown_engine(value: object, recipe: Recipe, cluster: Cluster) -> Objection | None:
    """Megatron-LM, tensor and context parallelism: no engine does that here."""
    if not is_on(value):
        return None
    return Objection(
        f"the recipe says engine={recipe.engine.name}", "leave it out: no engine of this program does that"
    )


def _device(value: object, recipe: Recipe, cluster: Cluster) -> Objection | None:
    if str(value) == cluster.device == "cpu":
        return None
    return Objection(
        f"the cluster says device={cluster.device}", "unset it: every rank takes the device of its own number"
    )


def _affinity(value: object, recipe: Recipe, cluster: Cluster) -> Objection | None:
    if not is_on(value) or recipe.engine.name == "accelerate":
        return None
    return Objection(
        f"the recipe says engine={recipe.engine.name}, which does not read it",
        "engine=accelerate, or bind the ranks when they are started (srun --cpu-bind)",
    )


_VARIABLES: dict[str, Rule] = {
    "ACCELERATE_MIXED_PRECISION": precision,
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": accumulation,
    "ACCELERATE_DYNAMO_BACKEND": compilation,
    "ACCELERATE_USE_CPU": cpu_only,
    "ACCELERATE_TORCH_DEVICE": _device,
    "ACCELERATE_DOWNCAST_BF16": downcast,
    "ACCELERATE_CPU_AFFINITY": _affinity,
    "ACCELERATE_USE_FSDP": another_engine("fsdp"),
    "ACCELERATE_USE_DEEPSPEED": another_engine("deepspeed"),
    "ACCELERATE_USE_MEGATRON_LM": unknown_engine,
    "ACCELERATE_USE_PARALLELISM_CONFIG": unknown_engine,
}
