"""How much memory a rank needs, by engine, and whether it is there. A lower bound: nothing that fits is refused.

Weights, gradients and the optimizer's state were measured on one process; an engine shares some of them out among the
ranks (Rajbhandari et al. 2020, "ZeRO", figure 1; FSDP2 shares out all three). Not counted: what libraries and CUDA take
themselves, buffers of collectives, and the group of parameters that FSDP puts together for a moment.
"""

from __future__ import annotations

from typing import Any

from megabatch.configs.cluster import Cluster, Local
from megabatch.configs.engines import DeepSpeed, Fsdp
from megabatch.configs.job import Job
from megabatch.configs.precision import Fp32, Fp64
from megabatch.configs.recipe import Recipe
from megabatch.configs.sizes import size
from megabatch.launcher.study.memory import available_bytes

_SHARING = ("engine={name: deepspeed, zero_stage: 1}", "engine={name: deepspeed, zero_stage: 2}", "engine=fsdp")
_PARTS = ("weight_bytes", "gradient_bytes", "optimizer_bytes")


def state_bytes(found: dict[str, Any], recipe: Recipe, cluster: Cluster) -> int:
    """Return the bytes of weights, gradients, optimizer state and teachers that one rank keeps on its device."""
    engine = recipe.engine
    shared = 3 if isinstance(engine, Fsdp) else engine.stage if isinstance(engine, DeepSpeed) else 0
    elsewhere = isinstance(engine, DeepSpeed) and engine.offload_optimizer is not None and cluster.device == "cuda"
    return _state_bytes({**found, "optimizer_bytes": 0} if elsewhere else found, shared, cluster.num_ranks)


def _state_bytes(found: dict[str, Any], shared: int, num_ranks: int) -> int:
    """Return the same where the last `shared` of weights, gradients and optimizer state are cut among the ranks."""
    whole, cut = _PARTS[: 3 - shared], _PARTS[3 - shared :]
    teachers = found.get("teacher_bytes", 0)  # whole on every rank
    return int(teachers + sum(found[part] for part in whole) + sum(-(-found[part] // num_ranks) for part in cut))


def does_not_fit(job: Job, found: dict[str, Any]) -> list[str]:
    """Return a message, with what would fit, if a rank needs more memory than is there, as far as that is known."""
    there = _bytes_there(job.cluster, found)
    if there is None:
        return []
    state, activations = state_bytes(found, job.recipe, job.cluster), _activations(job.recipe, found)
    if state + activations <= there:
        return []
    micro_batch = job.recipe.batch.micro_batch
    return [
        f"a rank needs at least {size(state)} for weights, gradients and optimizer and {size(activations)} for the "
        f"activations of a micro-batch of {micro_batch}, and {size(there)} are there. Instead: "
        f"{_remedy(job, found, there, activations / micro_batch)}"
    ]


def _bytes_there(cluster: Cluster, found: dict[str, Any]) -> int | None:
    """Return the memory of a rank's device, if the ranks will run on this machine."""
    if not isinstance(cluster.backend, Local):
        return None
    if cluster.device == "cuda":
        device_bytes: int | None = found["device_bytes"]
        return device_bytes
    return available_bytes() // cluster.processes_per_node


def _activations(recipe: Recipe, found: dict[str, Any]) -> int:
    """Return what autograd keeps of a micro-batch; the measurement is in 32 bits, and half as much is enough in 16."""
    measured = found["activation_bytes"] or 0
    return measured if isinstance(recipe.precision, Fp32 | Fp64) else measured // 2


def _remedy(job: Job, found: dict[str, Any], there: int, bytes_per_sample: float) -> str:
    """Return the largest micro-batch that fits, else the engine that shares out least and fits with one sample."""
    left = there - state_bytes(found, job.recipe, job.cluster)
    if bytes_per_sample and left >= bytes_per_sample:
        return f"batch.micro_batch={int(left / bytes_per_sample)} or less; the global batch stays what it is"
    num_ranks = job.cluster.num_ranks
    for shared, engine in enumerate(_SHARING, 1):
        if num_ranks > 1 and _state_bytes(found, shared, num_ranks) + bytes_per_sample <= there:
            return f"{engine}, which shares out the state among {num_ranks} ranks, and a smaller batch.micro_batch"
    return "a smaller network, more memory, or more ranks with engine=fsdp"
