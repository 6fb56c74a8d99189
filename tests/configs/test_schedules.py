"""Schedules against torch's own, and their ends."""

from __future__ import annotations

import pytest
import torch

from megabatch.configs.schedules import Constant, Cosine, Linear, Step


def torch_factors(make: object, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)  # type: ignore[operator]
    factors = []
    for _ in range(steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


def ours(schedule: Cosine | Linear | Step | Constant, steps: int, epochs: int = 10) -> list[float]:
    return [schedule.factor(step * epochs / steps, epochs) for step in range(steps)]


def test_cosine_is_torchs_cosine() -> None:
    expected = torch_factors(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=40, eta_min=0.1), 40)
    assert ours(Cosine(end_factor=0.1), 40) == pytest.approx(expected, abs=1e-12)


def test_linear_is_torchs_linear() -> None:
    expected = torch_factors(
        lambda o: torch.optim.lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.2, total_iters=40), 40
    )
    assert ours(Linear(end_factor=0.2), 40) == pytest.approx(expected, abs=1e-12)


def test_step_is_torchs_step() -> None:
    expected = torch_factors(lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=12, gamma=0.5), 40)
    assert ours(Step(every_epochs=3, gamma=0.5), 40) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("schedule", [Constant, Cosine, Linear])
def test_warmup_rises_along_a_line_and_then_the_schedule_begins_at_its_peak(schedule: type[Cosine]) -> None:
    warm = schedule(warmup_epochs=2, start_factor=0.1)
    assert [warm.factor(x, 10) for x in (0.0, 1.0, 2.0)] == pytest.approx([0.1, 0.55, 1.0])


def test_the_last_moment_has_the_end_factor() -> None:
    assert Cosine(warmup_epochs=1, end_factor=0.05).factor(10, 10) == pytest.approx(0.05)
    assert Linear(warmup_epochs=1, end_factor=0.05).factor(10, 10) == pytest.approx(0.05)
    assert Constant(warmup_epochs=1).factor(10, 10) == 1.0
