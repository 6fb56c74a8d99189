"""What a rank needs is a lower bound that follows from the engine; what does not fit is told with what would."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.launcher import memory_need
from megabatch.launcher.memory_need import does_not_fit, state_bytes
from megabatch.launcher.prepare import job_of

GIB = 1 << 30
FOUND: dict[str, Any] = {
    "weight_bytes": 4 * GIB, "gradient_bytes": 4 * GIB, "optimizer_bytes": 8 * GIB, "activation_bytes": 8 * GIB,
    "device_bytes": None,
}  # fmt: skip


def job(*overrides: str) -> Job:
    return job_of(load("digits", "laptop", overrides))


@pytest.mark.parametrize(
    ("engine", "gib"),
    [
        ("ddp", 16), ("accelerate", 16), ("{name: deepspeed, zero_stage: 0}", 16),
        ("{name: deepspeed, zero_stage: 1}", 12), ("{name: deepspeed, zero_stage: 2}", 10),
        ("{name: deepspeed, zero_stage: 3}", 8), ("fsdp", 8),
    ],
)  # fmt: skip
def test_an_engine_shares_out_what_it_says_on_two_ranks(engine: str, gib: int) -> None:
    of_two = job(f"engine={engine}", "cluster.processes_per_node=2")
    assert state_bytes(FOUND, of_two.recipe, of_two.cluster) == gib * GIB


def test_the_optimizer_on_the_cpu_takes_nothing_of_a_gpu() -> None:
    offloaded = ("engine={name: deepspeed, zero_stage: 1, offload_optimizer: cpu}", "cluster.processes_per_node=2")
    on_gpu = job(*offloaded, "cluster.device=cuda")
    assert state_bytes(FOUND, on_gpu.recipe, on_gpu.cluster) == 8 * GIB
    on_cpu = job(*offloaded)
    assert state_bytes(FOUND, on_cpu.recipe, on_cpu.cluster) == 12 * GIB


def told(monkeypatch: pytest.MonkeyPatch, there_gib: int, *overrides: str) -> list[str]:
    monkeypatch.setattr(memory_need, "available_bytes", lambda: 2 * there_gib * GIB)  # for two ranks
    return does_not_fit(job("cluster.processes_per_node=2", *overrides), FOUND)


def test_what_fits_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, 24) == []
    assert told(monkeypatch, 20, "precision=bf16") == []


def test_a_micro_batch_that_fits_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    (message,) = told(monkeypatch, 20, "batch.micro_batch=32")
    assert message == (
        "a rank needs at least 16.00 GiB for weights, gradients and optimizer and 8.00 GiB for the activations of a "
        "micro-batch of 32, and 20.00 GiB are there. Instead: batch.micro_batch=16 or less; the global batch stays what it is"
    )


@pytest.mark.parametrize(
    ("there_gib", "remedy"),
    [
        (13, "engine={name: deepspeed, zero_stage: 1}, which shares"),
        (11, "engine={name: deepspeed, zero_stage: 2}, which shares"),
        (9, "engine=fsdp, which shares out the state among 2 ranks"),
        (7, "a smaller network, more memory, or more ranks with engine=fsdp"),
    ],
)
def test_where_not_even_one_sample_fits_the_engine_that_shares_enough_is_named(
    monkeypatch: pytest.MonkeyPatch, there_gib: int, remedy: str
) -> None:
    (message,) = told(monkeypatch, there_gib)
    assert f"Instead: {remedy}" in message


def test_of_machines_that_are_not_this_one_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, 1, "cluster.backend=slurm") == []
    assert told(monkeypatch, 1, "cluster.device=cuda") == []


def test_the_memory_of_a_gpu_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = job("cluster.device=cuda")
    assert does_not_fit(on_gpu, {**FOUND, "device_bytes": 80 * GIB}) == []
    (message,) = does_not_fit(on_gpu, {**FOUND, "device_bytes": 2 * GIB})
    assert "and 2.00 GiB are there" in message


@given(st.integers(1, 64), st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 10**12))
def test_sharing_more_never_needs_more(num_ranks: int, weights: int, gradients: int, optimizer: int) -> None:
    found = {"weight_bytes": weights, "gradient_bytes": gradients, "optimizer_bytes": optimizer}
    needs = [memory_need._state_bytes(found, shared, num_ranks) for shared in range(4)]
    assert needs == sorted(needs, reverse=True)
    assert needs[0] <= needs[3] * num_ranks < needs[0] + 3 * num_ranks
