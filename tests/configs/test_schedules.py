"""Schedules against torch's own and timm's, their ends, and lengths in any unit."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch.optim import lr_scheduler as torchs

from megabatch.configs.schedules import (
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    Linear,
    MultiStep,
    OneCycle,
    Plateau,
    Polynomial,
    Schedule,
    ScheduleBase,
    Step,
    WarmedUp,
    WarmupStableDecay,
)
from megabatch.data.rate import LearningRate
from megabatch.data.steps import Steps

STEPS, EPOCHS = 40, 10
SCHEDULES: list[ScheduleBase] = [
    Constant(),
    Cosine(end_factor=0.1),
    CosineRestarts(cycles=2, end_factor=0.1),
    Linear(end_factor=0.2),
    Polynomial(power=2.0, end_factor=0.0),
    Polynomial(power=0.7, end_factor=0.3),
    Step(every=3, gamma=0.5),
    MultiStep(milestones=(2.5, 6.0), gamma=0.3),
    Exponential(gamma=0.8),
    WarmupStableDecay(decay_over=4, decay_shape="linear"),
    WarmupStableDecay(decay_over=4, decay_shape="cosine"),
    WarmupStableDecay(decay_over=4, decay_shape="sqrt", end_factor=0.1),
    OneCycle(),
    Plateau(),
]


def optimizer() -> torch.optim.SGD:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)


def rates(made: torch.optim.SGD, scheduler: torchs.LRScheduler, steps: int) -> list[float]:
    factors = []
    for _ in range(steps):
        factors.append(float(made.param_groups[0]["lr"]))
        made.step()
        scheduler.step()
    return factors


def ours(schedule: ScheduleBase) -> list[float]:
    return [schedule.factor(step * EPOCHS / STEPS, EPOCHS) for step in range(STEPS)]


PAIRS: list[tuple[ScheduleBase, Callable[[torch.optim.SGD], torchs.LRScheduler]]] = [
    (Cosine(end_factor=0.1), lambda o: torchs.CosineAnnealingLR(o, T_max=40, eta_min=0.1)),
    (CosineRestarts(cycles=2, end_factor=0.1), lambda o: torchs.CosineAnnealingWarmRestarts(o, T_0=20, eta_min=0.1)),
    (Linear(end_factor=0.2), lambda o: torchs.LinearLR(o, start_factor=1.0, end_factor=0.2, total_iters=40)),
    (Polynomial(power=2.0), lambda o: torchs.PolynomialLR(o, total_iters=40, power=2.0)),
    (Polynomial(power=0.5), lambda o: torchs.PolynomialLR(o, total_iters=40, power=0.5)),
    (Step(every=3, gamma=0.5), lambda o: torchs.StepLR(o, step_size=12, gamma=0.5)),
    (MultiStep(milestones=(2.5, 6.0), gamma=0.3), lambda o: torchs.MultiStepLR(o, [10, 24], gamma=0.3)),
    (Exponential(gamma=0.8), lambda o: torchs.ExponentialLR(o, gamma=0.8**0.25)),
    (Linear(warmup=10, start_factor=0.1), lambda o: torchs.LinearLR(o, start_factor=0.1, total_iters=40)),
    (Constant(), lambda o: torchs.ConstantLR(o, factor=1.0)),
]


@pytest.mark.parametrize(("schedule", "make"), PAIRS, ids=lambda value: getattr(value, "name", ""))
def test_a_schedule_is_torchs(schedule: ScheduleBase, make: Callable[[torch.optim.SGD], torchs.LRScheduler]) -> None:
    made = optimizer()
    assert ours(schedule) == pytest.approx(rates(made, make(made), STEPS), abs=1e-12)


def test_one_cycle_is_torchs() -> None:
    """torch counts from 0 to steps - 1, with the peak at the step before: the same curve over one step less."""
    made = optimizer()
    torch_rates = rates(made, torchs.OneCycleLR(made, max_lr=1.0, total_steps=51, cycle_momentum=False), 50)
    rise = (0.3 * 51 - 1) / 50
    schedule = OneCycle(rise=rise)
    assert [schedule.factor(step, 50) for step in range(50)] == pytest.approx(torch_rates, abs=1e-12)


def test_cosine_after_a_warmup_is_timms() -> None:
    from timm.scheduler.cosine_lr import CosineLRScheduler

    made = optimizer()
    timms = CosineLRScheduler(made, t_initial=40, lr_min=0.05, warmup_t=8, warmup_lr_init=0.2, warmup_prefix=False)
    expected = []
    for step in range(40):
        timms.step(step)
        expected.append(made.param_groups[0]["lr"])
    schedule = Cosine(warmup=2, start_factor=0.2, end_factor=0.05)
    assert ours(schedule)[:8] == pytest.approx(expected[:8], abs=1e-12)
    # After its warmup timm goes on with the cosine of the whole time; ours begins there, at the peak.
    whole = [Cosine(end_factor=0.05).factor(step / 4, 10) for step in range(8, 40)]
    assert whole == pytest.approx(expected[8:], abs=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda value: value.name)
def test_a_factor_is_between_0_and_1_and_the_warmup_ends_at_the_peak(schedule: ScheduleBase) -> None:
    assert all(0.0 <= factor <= 1.0 for factor in ours(schedule))
    if isinstance(schedule, WarmedUp) and not isinstance(schedule, Exponential | Step | MultiStep):
        for shape in ("linear", "exponential"):
            warm = schedule.model_copy(update={"warmup": 2.0, "start_factor": 0.1, "warmup_shape": shape})
            assert warm.factor(0.0, 10) == pytest.approx(0.1)
            assert warm.factor(2.0 - 1e-9, 10) == pytest.approx(1.0, abs=1e-6)
            assert warm.factor(2.0, 10) == pytest.approx(1.0)


def test_a_warmup_rises_along_a_line_or_by_equal_ratios() -> None:
    line = Constant(warmup=2, start_factor=0.1)
    assert [line.factor(x, 10) for x in (0.0, 1.0, 2.0)] == pytest.approx([0.1, 0.55, 1.0])
    ratios = Constant(warmup=2, start_factor=0.01, warmup_shape="exponential")
    assert [ratios.factor(x, 10) for x in (0.0, 1.0, 2.0)] == pytest.approx([0.01, 0.1, 1.0])


def test_the_last_moment_has_the_end_factor() -> None:
    assert CosineRestarts(cycles=5, end_factor=0.05).factor(10, 10) == pytest.approx(0.05)
    ends = [Cosine, Linear, Polynomial, OneCycle]
    assert [make(end_factor=0.05).factor(10, 10) for make in ends] == pytest.approx([0.05] * 4)
    assert WarmupStableDecay(decay_over=3, end_factor=0.05).factor(10, 10) == pytest.approx(0.05)


def test_a_warmup_shortens_the_first_cycle_alone() -> None:
    schedule = CosineRestarts(cycles=2, warmup=1, start_factor=0.0)
    assert [schedule.factor(x, 10) for x in (0.5, 1.0, 3.0)] == pytest.approx([0.5, 1.0, 0.5])
    assert [schedule.factor(x, 10) for x in (5 - 1e-9, 5.0, 7.5)] == pytest.approx([0.0, 1.0, 0.5])


def test_cycles_end_with_epochs() -> None:
    assert [epoch for epoch in range(13) if CosineRestarts(cycles=3).ends_cycle(epoch, 12)] == [4, 8, 12]
    assert not any(Cosine().ends_cycle(epoch, 12) for epoch in range(13))


def test_warmup_stable_decay_is_stable_and_then_falls_as_its_shape_says() -> None:
    for shape, half in (("linear", 0.5), ("cosine", 0.5), ("sqrt", 1 - math.sqrt(0.5))):
        schedule = WarmupStableDecay(warmup=1, decay_over=4, decay_shape=shape)
        assert [schedule.factor(x, 10) for x in (1.0, 3.3, 6.0)] == [1.0, 1.0, 1.0]
        assert schedule.factor(8.0, 10) == pytest.approx(half)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 500), st.integers(1, 64), st.integers(1, 6), st.sampled_from(["short", "drop"]), st.integers(0, 400)
)
def test_a_length_is_the_same_in_steps_samples_and_epochs(
    samples: int, batch: int, epochs: int, last: str, step: int
) -> None:
    if last == "drop" and samples < batch:
        return
    steps = Steps(samples, epochs, batch, 1, last)  # type: ignore[arg-type]
    seen = steps.samples_seen(step)
    in_epochs = seen / steps.samples_per_epoch
    assert steps.in_epochs(f"{step} steps") == steps.in_epochs(f"{seen} samples") == in_epochs
    for length in (f"{step} steps", f"{seen} samples", in_epochs):
        schedule = MultiStep(milestones=(length,), warmup=0).in_epochs(steps.in_epochs)
        rate = LearningRate(1.0, schedule, epochs)
        assert rate.at(steps.samples_seen(step) / steps.samples_per_epoch) == pytest.approx(0.1)
        if step > 0:
            assert rate.at(steps.samples_seen(step - 1) / steps.samples_per_epoch) == 1.0


@pytest.mark.parametrize("wrong", ["5", "five epochs", "-1 steps", "1 step s", -1.0, float("inf")])
def test_a_wrong_length_is_refused(wrong: object) -> None:
    with pytest.raises(ValidationError, match=r"length|write a number"):
        TypeAdapter(Schedule).validate_python({"name": "cosine", "warmup": wrong})


def test_what_cannot_be_computed_is_refused() -> None:
    with pytest.raises(ValidationError, match="start_factor above 0"):
        Constant(warmup=1, warmup_shape="exponential", start_factor=0.0)
    with pytest.raises(ValidationError, match="never ends"):
        Step(every="0 steps")
