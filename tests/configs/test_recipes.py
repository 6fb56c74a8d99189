"""The shipped recipes: each is valid and has the published numbers."""

from __future__ import annotations

import pytest

from megabatch.configs.load import load, shipped
from megabatch.configs.schedules import Cosine
from megabatch.configs.transforms import Resize


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
        ("imagenet-resnet50-256", 256, 90, 0.1, 0, 0.9, 1e-4),
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
    assert (optimizer.name, getattr(optimizer, "nesterov", False)) in {("lars", False), ("sgd", True)}
    if schedule.name == "polynomial":
        assert schedule.power == 2
        assert schedule.end_factor * peak == pytest.approx(1e-4, rel=0.03)


@pytest.mark.parametrize(
    ("name", "optimizer", "batch", "images_seen", "peak", "first", "last", "decay", "depth", "crop"),
    [
        ("imagenet-resnet50-lamb", "lamb", 2048, 300, 5e-3, 5e-7, 1e-6, 0.02, 0.05, 0.95),
        ("imagenet-vit", "lamb", 2048, 800, 4e-3, 1e-6, 1e-5, 0.05, 0.05, 1.0),
        ("imagenet-vit-adamw", "adamw", 1024, 300, 1e-3, 1e-6, 1e-5, 0.05, 0.1, 0.875),
    ],
)
def test_lamb_and_its_baseline_have_the_published_numbers(
    name: str, optimizer: str, batch: int, images_seen: int, peak: float, first: float, last: float, decay: float,
    depth: float, crop: float,
) -> None:  # fmt: skip
    """Repeated augmentation counts an epoch when a third of the images came three times each."""
    recipe = load(name, "one-node-8gpu").recipe
    assert (recipe.optimizer.name, recipe.optimizer.weight_decay) == (optimizer, decay)
    assert recipe.batch.global_batch == batch
    assert recipe.optimizer.peak_learning_rate(batch) == pytest.approx(peak)
    assert recipe.epochs * recipe.data.repeats == pytest.approx(images_seen, abs=1)
    schedule = recipe.schedule
    assert isinstance(schedule, Cosine)
    assert schedule.in_epochs(float).warmup * recipe.data.repeats == pytest.approx(5, abs=0.02)  # type: ignore[operator]
    assert (schedule.start_factor * peak, schedule.end_factor * peak) == pytest.approx((first, last))
    assert recipe.regularization.stochastic_depth == depth
    resize = recipe.data.evaluation_transforms[0]
    assert isinstance(resize, Resize)
    assert resize.size == int(recipe.data.image_size / crop + 0.5)
