"""Masks and their schedule against numpy, written from the formulas of the papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megabatch.configs.load import load
from megabatch.configs.pruning import Cubic, Magnitude
from megabatch.data.steps import Steps
from megabatch.trainer.pruning.masks import magnitude_masks, n_of_m_mask
from megabatch.trainer.pruning.schedule import SparsitySchedule, schedule_of


def weights(seed: int, *shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Numbers on a coarse grid, so that some are equal."""
    drawn = np.random.default_rng(seed)
    return {str(n): torch.from_numpy(drawn.integers(-9, 10, shape) / 8).float() for n, shape in enumerate(shapes)}


@settings(max_examples=40)
@given(st.integers(0, 1000), st.floats(0.01, 0.99), st.sampled_from(["global", "layer"]))
def test_the_smallest_weights_go_and_of_equal_ones_the_first(seed: int, sparsity: float, scope: str) -> None:
    found = weights(seed, (3, 4), (5, 2, 3, 3), (7, 1))
    masks = magnitude_masks(found, sparsity, scope)  # type: ignore[arg-type]
    flat = {name: weight.numpy().ravel() for name, weight in found.items()}
    parts = [np.concatenate(list(flat.values()))] if scope == "global" else list(flat.values())
    expected = []
    for part in parts:
        mask = np.ones(part.size, bool)
        mask[np.argsort(np.abs(part), kind="stable")[: math.floor(sparsity * part.size + 0.5)]] = False
        expected.append(mask)
    got = torch.cat([masks[name].flatten() for name in found]).numpy()
    assert np.array_equal(got, np.concatenate(expected))
    assert {name: mask.shape for name, mask in masks.items()} == {name: weight.shape for name, weight in found.items()}


@settings(max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 3), st.integers(1, 4), st.sampled_from([(), (3, 3), (2,)]), st.data())
def test_n_of_m_leaves_the_n_largest_of_every_m_inputs(
    seed: int, groups: int, outputs: int, kernel: tuple[int, ...], data: st.DataObject
) -> None:
    m = data.draw(st.integers(2, 5))
    n = data.draw(st.integers(1, m - 1))
    weight = weights(seed, (outputs, groups * m, *kernel))["0"]
    mask = n_of_m_mask(weight, n, m).numpy()
    for place in np.ndindex(outputs, groups, *kernel):
        output, group, *pixel = place
        of_group = [(output, group * m + i, *pixel) for i in range(m)]
        sizes = [-abs(float(weight[index])) for index in of_group]
        largest = set(np.argsort(sizes, kind="stable")[:n].tolist())
        assert [bool(mask[index]) for index in of_group] == [i in largest for i in range(m)]


@settings(max_examples=60)
@given(st.integers(0, 50), st.integers(1, 200), st.integers(1, 50), st.floats(0.1, 0.95))
def test_sparsity_rises_by_equation_1_of_zhu_and_gupta(begin: int, length: int, every: int, final: float) -> None:
    every = min(every, length)
    schedule = SparsitySchedule(final, begin, begin + length, every)
    n = length // every
    times = begin + every * np.arange(n + 1)
    formula = final + (0.0 - final) * (1 - (times - begin) / (n * every)) ** 3
    due = {step: schedule.due(step) for step in range(begin + length + 2 * every)}
    assert [step for step, value in due.items() if value is not None] == times.tolist()
    assert [due[int(step)] for step in times] == pytest.approx(formula.tolist(), abs=1e-12)
    assert schedule.last == times[-1]
    assert due[schedule.last] == final


def test_lengths_are_epochs_or_steps_and_updates_no_farther_apart_than_the_schedule_is_long() -> None:
    steps = Steps(samples=100, epochs=10, global_batch=10, micro_batch=10, last_batch="short")
    assert schedule_of(Cubic(begin="5 steps", end=2.5), 0.5, steps) == SparsitySchedule(0.5, 5, 25, 20)
    assert schedule_of(Cubic(end=4.0, every_steps=7), 0.5, steps) == SparsitySchedule(0.5, 0, 40, 7)
    loaded = load("digits", "laptop", ["pruning={name: magnitude, sparsity: 0.5}"]).recipe.pruning
    assert isinstance(loaded, Magnitude)
    one_shot = schedule_of(loaded.schedule, 0.5, steps)
    assert [one_shot.due(step) for step in range(4)] == [0.5, None, None, None]
