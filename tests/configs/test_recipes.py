"""The shipped recipes: each is valid and has the published numbers."""

from __future__ import annotations

import pytest

from megabatch.configs.load import load, shipped


@pytest.mark.parametrize("name", sorted(shipped("recipes")))
def test_a_shipped_recipe_is_valid(name: str) -> None:
    assert load(name, "laptop").recipe.name == name


@pytest.mark.parametrize(
    ("name", "batch", "epochs", "peak", "warmup", "momentum", "decay"),
    [
        ("imagenet-resnet50-4k", 4096, 40, 10, 5, 0.9, 2e-4),
        ("imagenet-resnet50", 8192, 42, 17, 5, 0.9, 2e-4),
        ("imagenet-resnet50-32k", 32768, 56, 21.2, 16, 0.94, 2.5e-5),
        ("imagenet-resnet50-nesterov", 8192, 90, 3.2, 5, 0.9, 1e-4),
    ],
)
def test_the_reference_points_are_those_published(
    name: str, batch: int, epochs: int, peak: float, warmup: float, momentum: float, decay: float
) -> None:
    recipe = load(name, "one-node-8gpu").recipe
    optimizer, schedule = recipe.optimizer, recipe.schedule
    assert (recipe.batch.global_batch, recipe.epochs) == (batch, epochs)
    assert optimizer.peak_learning_rate(batch) == pytest.approx(peak)
    assert (optimizer.momentum, optimizer.weight_decay, schedule.warmup) == (momentum, decay, warmup)  # type: ignore[union-attr]
    if schedule.name == "polynomial":
        assert schedule.power == 2
        assert schedule.end_factor * peak == pytest.approx(1e-4, rel=0.03)
