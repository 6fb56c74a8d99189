"""Plateaus against torch's ReduceLROnPlateau, and when a run ends early."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megabatch.configs.evaluation import EarlyStopping
from megabatch.configs.schedules import Plateau
from megabatch.trainer.patience import Patience, lower_rate, should_stop


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.floats(0.01, 1.0), min_size=1, max_size=30),
    st.booleans(),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.05]),
    st.sampled_from([0.0, 0.01]),
)
def test_the_rate_is_lowered_when_torch_lowers_it(
    values: list[float], higher: bool, patience: int, cooldown: int, threshold: float, end: float
) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, "max" if higher else "min", factor=0.3, patience=patience, threshold=threshold,
        cooldown=cooldown, min_lr=end, eps=0.0,
    )  # fmt: skip
    settings_ = Plateau(factor_of_drop=0.3, patience=patience, threshold=threshold, cooldown=cooldown, end_factor=end)
    state = Patience()
    for value in values:
        torchs.step(value)
        lower_rate(state, settings_, value, higher)
        assert state.rate_factor == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


@pytest.mark.parametrize(("higher", "sign"), [(True, -1), (False, 1), (True, 1), (False, -1)])
def test_a_plateau_asks_for_better_values_on_either_side_of_0(higher: bool, sign: int) -> None:
    """R2 may be below 0, where torch's rule takes 0.4 % worse for better."""
    better = 1.02 if higher == (sign > 0) else 0.98
    settings_ = Plateau(patience=0, threshold=0.01, factor_of_drop=0.5)
    for factor, expected in ((better, 1.0), (1 + (better - 1) / 4, 0.5), (2 - better, 0.5)):
        state = Patience()
        lower_rate(state, settings_, sign * 0.5, higher)
        lower_rate(state, settings_, sign * 0.5 * factor, higher)
        assert state.rate_factor == expected


@pytest.mark.parametrize(
    ("values", "stops_after"),
    [
        ([0.1, 0.2, 0.2, 0.2], 4),
        ([0.1, 0.2, 0.19, 0.21, 0.21, 0.2], 6),
        ([0.3, 0.2, 0.1], 3),
        ([0.1, 0.2, 0.3], None),
    ],
)
def test_training_ends_after_evaluations_without_progress(values: list[float], stops_after: int | None) -> None:
    state = Patience()
    stopped = [n for n, v in enumerate(values, 1) if should_stop(state, EarlyStopping(patience=2), v, True)]
    assert stopped[:1] == ([stops_after] if stops_after else [])


def test_progress_of_less_than_min_delta_does_not_count() -> None:
    state = Patience()
    settings_ = EarlyStopping(patience=2, min_delta=0.1)
    assert [should_stop(state, settings_, value, False) for value in (1.0, 0.95, 0.85, 0.8, 0.78)] == [
        False, False, False, False, True,
    ]  # fmt: skip
