"""Running statistics: torch's own for one micro-batch, and independent of how micro-batches are spread over ranks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from megabatch.trainer.batch_norm import StepBatchNorm


def network(momentum: float | None = 0.1) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=momentum), nn.ReLU(), nn.BatchNorm2d(4, momentum=momentum)
    ).double()


def statistics(model: nn.Sequential) -> list[torch.Tensor]:
    return [buffer.clone() for buffer in model.buffers()]


def run_steps(model: nn.Sequential, steps: list[list[torch.Tensor]], num_ranks: int) -> list[list[torch.Tensor]]:
    """Train-mode passes as `num_ranks` ranks would do them, sharing weights; returns each rank's buffers."""
    ranks = [network() for _ in range(num_ranks)]
    norms = []
    for rank in ranks:
        rank.load_state_dict(model.state_dict())
        for ours, original in zip(rank, model, strict=True):
            if isinstance(ours, nn.BatchNorm2d):
                ours.momentum = original.momentum
        norms.append(StepBatchNorm(rank))
    for micro_batches in steps:
        for norm in norms:
            norm.begin()
        for number, images in enumerate(micro_batches):
            ranks[number % num_ranks](images)
            norms[number % num_ranks].collect(len(images))
        total = sum(norm.sums(torch.device("cpu")) for norm in norms)
        for norm in norms:
            norm.finish(total, sum(len(images) for images in micro_batches))
    return [statistics(rank) for rank in ranks]


def images(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("momentum", [0.1, 0.9, None])
def test_with_one_micro_batch_a_step_the_statistics_are_torchs(momentum: float | None) -> None:
    plain = network(momentum)
    steps = [[images(5, seed)] for seed in range(4)]
    for (batch,) in steps:
        plain(batch)
    (ours,) = run_steps(network(momentum), steps, num_ranks=1)
    for expected, got in zip(statistics(plain), ours, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_every_rank_ends_with_the_same_statistics_for_any_number_of_ranks() -> None:
    steps = [[images(count, 10 * step + number) for number, count in enumerate((4, 4, 4, 3))] for step in range(3)]
    (one,) = run_steps(network(), steps, num_ranks=1)
    for num_ranks in (2, 3, 5):
        for rank in run_steps(network(), steps, num_ranks):
            for expected, got in zip(one, rank, strict=True):
                torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_a_filler_leaves_no_trace() -> None:
    model = network()
    norm = StepBatchNorm(model)
    before = statistics(model)
    norm.begin()
    model(torch.zeros(2, 3, 6, 6, dtype=torch.float64))
    norm.collect(0)
    sums = norm.sums(torch.device("cpu"))
    assert sums.count_nonzero() == 0
    model(images(4, 0))
    norm.collect(4)
    norm.finish(norm.sums(torch.device("cpu")), 4)
    (expected,) = run_steps(network(), [[images(4, 0)]], num_ranks=1)
    for got, wanted, old in zip(statistics(model), expected, before, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
        assert not torch.equal(got, old)
