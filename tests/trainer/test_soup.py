"""Soups against torch's own averaging: weights, and the greedy choice by brute force."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel

from megabatch.trainer.errors import TrainingError
from megabatch.trainer.soup import _require_alike, greedy_choice, mean_of


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def test_the_mean_is_that_of_torchs_averaged_model() -> None:
    networks = [network(seed) for seed in range(4)]
    average = AveragedModel(networks[0], use_buffers=True)
    for one in networks:
        average.update_parameters(one)
    mixed = mean_of([one.state_dict() for one in networks])
    for name, tensor in average.module.state_dict().items():
        torch.testing.assert_close(mixed[name], tensor)
        assert mixed[name].dtype == tensor.dtype


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.booleans(), st.randoms(use_true_random=False))
def test_greedy_keeps_what_makes_the_soup_no_worse(values: list[float], higher: bool, random: Any) -> None:
    known: dict[tuple[int, ...], float] = {}

    def value_of(chosen: list[int]) -> float:
        return known.setdefault(tuple(chosen), random.random())

    chosen = greedy_choice(values, value_of, higher)
    best = values[chosen[0]]
    assert best == (max(values) if higher else min(values))
    rest = sorted(set(range(len(values))) - {chosen[0]}, key=lambda n: values[n], reverse=higher)
    soup = chosen[:1]
    for number in rest:
        value = known[(*soup, number)]
        no_worse = value >= best if higher else value <= best
        assert (number in chosen) == no_worse
        if no_worse:
            soup, best = [*soup, number], value
    assert soup == chosen


def test_networks_of_other_shapes_are_refused_by_name() -> None:
    wide = {"weight": torch.zeros(3, 4)}
    with pytest.raises(
        TrainingError, match=r"b has another network than a: weight is \(3, 5\) there and \(3, 4\) here"
    ):
        _require_alike([wide, {"weight": torch.zeros(3, 5)}], ["a", "b"])
    with pytest.raises(TrainingError, match="weight is missing there"):
        _require_alike([wide, {}], ["a", "b"])
