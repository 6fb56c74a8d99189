"""Statistics taken anew, against the formula of Wu and Johnson written in numpy."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from megabatch.configs.norms import FrozenNorm, GhostNorm, PreciseStatistics
from megabatch.data.loader import MicroBatch
from megabatch.data.requests import Request
from megabatch.data.steps import Steps
from megabatch.trainer import loop
from megabatch.trainer.batch_norm import StepBatchNorm
from megabatch.trainer.norms.modes import set_batch_norm
from megabatch.trainer.norms.precise import recompute_statistics, refresh_statistics, tracked_batch_norms
from megabatch.trainer.state import TrainState

STEPS = Steps(samples=44, epochs=2, global_batch=12, micro_batch=6, last_batch="short")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5))


def images(count: int, seed: int) -> torch.Tensor:
    return 2 * torch.randn(count, 8, 8, 3, generator=torch.Generator().manual_seed(seed)) + seed


def micro_batches(rank: int, num_ranks: int) -> list[MicroBatch]:
    found = []
    for step in range(STEPS.total):
        spans = STEPS.at(step).of_rank(rank, num_ranks)
        for span in spans:
            ids = np.arange(span.samples, dtype=np.int64)
            request = Request(step, 0, span.number, ids, np.zeros_like(ids), 12, span is spans[-1])
            pixels = images(span.samples, step * 10 + span.number) if span.samples else torch.zeros(2, 8, 8, 3)
            found.append(MicroBatch(request, pixels, torch.zeros(len(pixels)), torch.ones(len(pixels))))
    return found


def work(model: nn.Module, rank: int = 0, num_ranks: int = 1, others: list[torch.Tensor] | None = None) -> Any:
    def sum_over_ranks(sums: torch.Tensor) -> None:
        for other in others or []:
            sums += other
        model.sums = sums.clone()

    return SimpleNamespace(
        step_parts=SimpleNamespace(
            device=torch.device("cpu"),
            normalize=lambda images: images.permute(0, 3, 1, 2),
            precision=SimpleNamespace(autocast=contextlib.nullcontext),
            seed_network=lambda step, number: None,
            engine=SimpleNamespace(sum_over_ranks=sum_over_ranks, network=model, forward_only=contextlib.nullcontext),
            batch_norm=StepBatchNorm(model),
            average=None,
        ),
        steps=STEPS,
        micro_batches_from=lambda step: iter(micro_batches(rank, num_ranks)),
        job=SimpleNamespace(
            recipe=SimpleNamespace(model=SimpleNamespace(precise_statistics=PreciseStatistics(samples=20)))
        ),
    )


def population(inputs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return E[mean] and E[mean^2 + var] - E[mean]^2 over micro-batches, weighted by their samples."""
    weights = np.array([len(one) for one in inputs]) / sum(len(one) for one in inputs)
    means = np.stack([one.mean(axis=(0, 2, 3)) for one in inputs])
    variances = np.stack([one.var(axis=(0, 2, 3)) for one in inputs])
    mean = weights @ means
    return mean, weights @ (means**2 + variances) - mean**2


def expected(samples: int) -> list[np.ndarray]:
    """Return the statistics of both norms over the first whole steps with that many samples, on one rank."""
    model = network().double().train()
    taken = [one for one in micro_batches(0, 1) if STEPS.samples_seen(one.request.step) < samples]
    batches = [one.images_NHWC.permute(0, 3, 1, 2).double() for one in taken]
    with torch.no_grad():
        first = [model[0](batch) for batch in batches]
        second = [model[3](model[1](one).relu()) for one in first]
    return [array for inputs in (first, second) for array in population([one.numpy() for one in inputs])]


def statistics(model: nn.Sequential) -> list[np.ndarray]:
    return [b.numpy() for norm in (model[1], model[4]) for b in (norm.running_mean, norm.running_var)]


@pytest.mark.parametrize("samples", [1, 12, 13, 44, 1000])
def test_the_statistics_are_those_of_the_population(samples: int) -> None:
    model = network()
    recompute_statistics(work(model), samples)
    for got, wanted in zip(statistics(model), expected(samples), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_of_the_first_norm_they_are_mean_and_variance_of_all_pixels() -> None:
    model = network()
    recompute_statistics(work(model), 24)
    pixels = torch.cat([one.images_NHWC for one in micro_batches(0, 1)[:4]]).permute(0, 3, 1, 2)
    var, mean = torch.var_mean(model[0](pixels), dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(model[1].running_mean, mean)
    torch.testing.assert_close(model[1].running_var, var)


def test_ranks_add_up_and_fillers_count_nothing() -> None:
    """Three ranks share two micro-batches a step: one of them has a filler in every step."""
    sums = []
    for rank in range(3):
        model = network()
        recompute_statistics(work(model, rank, 3), 36)
        sums.append(model.sums)
    model = network()
    recompute_statistics(work(model, 0, 3, others=sums[1:]), 36)
    for got, wanted in zip(statistics(model), expected(36), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_weights_and_counters_stay_and_nothing_is_left_hooked() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    refresh_statistics(work(model))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == ("running" not in name), name
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_groups_of_a_micro_batch_give_the_statistics_of_smaller_micro_batches() -> None:
    """The input of the first norm is the same, whoever normalizes it; that of the second comes out of groups of 6."""
    ghosts = network()
    set_batch_norm(ghosts, GhostNorm(samples=6))
    recompute_statistics(work(ghosts), 24)
    for got, wanted in zip(statistics(ghosts), expected(24), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_frozen_norms_are_left_alone() -> None:
    model = network()
    model[1].running_mean.fill_(1.0)
    set_batch_norm(model, FrozenNorm())
    assert tracked_batch_norms(model) == []


@pytest.mark.parametrize(("step", "times"), [(0, 0), (2, 0), (STEPS.total, 1)])
def test_without_validation_the_statistics_are_taken_at_the_end_only(
    step: int, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refreshed: list[Any] = []
    monkeypatch.setattr(loop, "refresh_statistics", refreshed.append)
    parts: Any = SimpleNamespace(
        state=TrainState(step=step),
        steps=STEPS,
        job=SimpleNamespace(
            recipe=SimpleNamespace(
                evaluation=SimpleNamespace(every_epochs=1), data=SimpleNamespace(validation_split=None), metric="top1"
            )
        ),
    )
    assert loop._evaluate_if_due(parts) is False
    assert len(refreshed) == times
