"""What accelerate's environment variables say against a run: nothing is silently taken from one of the two."""

from __future__ import annotations

import pytest

from megabatch.configs.accelerate import environment_problems
from megabatch.configs.load import load


def told(variable: str, *overrides: str) -> list[str]:
    """What is said against NAME=VALUE; digits has a global batch of 256 in micro-batches of 32, on 2 ranks."""
    loaded = load("digits", "laptop", overrides)
    name, _, value = variable.partition("=")
    return [str(p) for p in environment_problems(loaded.recipe, loaded.cluster, {"PATH": "/bin", name: value})]


CONTRADICTIONS = [
    ("ACCELERATE_MIXED_PRECISION=bf16", "but the recipe says precision=fp32. Instead: precision=bf16 in the recipe, or `no` "
     "for accelerate"),
    ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS=3", "but batch.global_batch=256 in micro-batches of 32 on 2 ranks makes 4. "
     "Instead: leave it out: the batch in the recipe decides it"),
    ("ACCELERATE_DYNAMO_BACKEND=INDUCTOR", "but the recipe has no model.compile. Instead: model.compile={backend: inductor} "
     "in the recipe, and `no` for accelerate"),
    ("ACCELERATE_TORCH_DEVICE=cuda:0", "but the cluster says device=cpu. Instead: unset it: every rank takes the device of "
     "its own number"),
    ("ACCELERATE_DOWNCAST_BF16=true", "but the cluster says device=cpu, which is no TPU. Instead: leave it out; "
     "precision=bf16 is the recipe's"),
    ("ACCELERATE_CPU_AFFINITY=1", "but the recipe says engine=ddp, which does not read it. Instead: engine=accelerate, or "
     "bind the ranks when they are started (srun --cpu-bind)"),
    ("ACCELERATE_USE_FSDP=true", "but the recipe says engine=ddp. Instead: engine=fsdp in the recipe with options of its "
     "own, and accelerate launch --multi_gpu"),
    ("ACCELERATE_USE_DEEPSPEED=true", "but the recipe says engine=ddp. Instead: engine=deepspeed in the recipe with options "
     "of its own, and accelerate launch --multi_gpu"),
    ("ACCELERATE_USE_MEGATRON_LM=true", "but the recipe says engine=ddp. Instead: leave it out: no engine of this program "
     "does that"),
    ("ACCELERATE_USE_PARALLELISM_CONFIG=true", "but the recipe says engine=ddp. Instead: leave it out: no engine of this "
     "program does that"),
]  # fmt: skip


@pytest.mark.parametrize(("variable", "message"), CONTRADICTIONS, ids=[v for v, _ in CONTRADICTIONS])
def test_a_contradiction_names_both_places(variable: str, message: str) -> None:
    assert told(variable) == [f"environment: {variable}, {message}"]


def test_a_cpu_forced_on_a_cluster_with_gpus_is_a_contradiction() -> None:
    assert told("ACCELERATE_USE_CPU=True") == []
    assert told("ACCELERATE_USE_CPU=True", "cluster.device=cuda") == [
        "environment: ACCELERATE_USE_CPU=True, but the cluster says device=cuda. Instead: cluster.device=cpu, or "
        "accelerate launch without --cpu"
    ]


@pytest.mark.parametrize(
    ("variable", "overrides"),
    [
        ("ACCELERATE_MIXED_PRECISION=no", ("precision=bf16",)),
        ("ACCELERATE_MIXED_PRECISION=bf16", ("precision=bf16",)),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS=1", ()),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4", ()),
        ("ACCELERATE_DYNAMO_BACKEND=NO", ("model.compile={}",)),
        ("ACCELERATE_USE_FSDP=false", ()),
        ("ACCELERATE_CPU_AFFINITY=1", ("engine=accelerate",)),
        ("ACCELERATE_DEBUG_RDV_FILE=x", ()),
    ],
)
def test_what_agrees_with_the_run_is_accepted(variable: str, overrides: tuple[str, ...]) -> None:
    assert told(variable, *overrides) == []


def test_every_contradiction_is_told_at_once() -> None:
    loaded = load("digits", "laptop")
    environment = {"ACCELERATE_MIXED_PRECISION": "fp16", "ACCELERATE_USE_FSDP": "true"}
    assert len(environment_problems(loaded.recipe, loaded.cluster, environment)) == 2
