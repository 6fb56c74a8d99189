"""Transforms in a recipe: their bounds, their short form, and lists that can give no batch."""

from __future__ import annotations

from pathlib import Path

import pytest

from megabatch.configs.base import Choice
from megabatch.configs.errors import ConfigError
from megabatch.configs.load import load
from megabatch.configs.transforms import (
    CenterCrop,
    ColorJitter,
    RandomCrop,
    RandomResizedCrop,
    Resize,
    TrivialAugment,
    never_square,
)


def message(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load("digits", "laptop", overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("transform", "seen"),
    [
        ("{name: random_rotation, degrees: 181}", "0.degrees: 181: should be less than or equal to 180"),
        ("{name: random_affine, degrees: 1, shear: [90, 0]}", "shear.0: 90: should be less than 90"),
        ("{name: random_affine, degrees: 1, scale: [2, 1]}", "scale is [2.0, 1.0]: write [smallest, largest]"),
        ("{name: color_jitter, hue: 0.6}", "hue: 0.6: should be less than or equal to 0.5"),
        ("{name: gaussian_blur, sigma: [2, 1]}", "sigma is [2.0, 1.0]: write [smallest, largest]"),
        ("{name: rand_augment, magnitude: 31}", "magnitude: 31: should be less than or equal to 30"),
        ("{name: trivial_augment, fill: [0, 0, 256]}", "fill.2: 256: should be less than or equal to 255"),
        ("{name: random_erasing, scale: [0.5, 1.5]}", "scale is [0.5, 1.5]: write [smallest, largest], at most 1"),
        ("{name: random_erasing, ratio: [3, 1]}", "ratio is [3.0, 1.0]: write [smallest, largest]"),
        ("{name: auto_augment, policy: svhn}", "'svhn' is not one of the values. Allowed: imagenet, cifar10."),
    ],
)
def test_settings_outside_their_bounds_are_mistakes(transform: str, seen: str) -> None:
    assert seen in message(f"data.train_transforms=[{transform}]")


def test_a_misspelt_batch_transform_gets_the_nearest_name() -> None:
    assert "Did you mean cutmix?" in message("data.batch_transforms=[cutmx]")
    assert "data.batch_transforms.0.alpha: 0: should be greater than 0" in message(
        "data.batch_transforms=[{name: mixup, alpha: 0}]"
    )


def test_transforms_and_normalizations_may_be_named_alone(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "base: digits\ndata:\n  normalize: per_image\n  train_transforms: [trivial_augment, color_jitter]\n"
        "  batch_transforms: [mixup_or_cutmix, random_erasing]\n"
    )
    data = load(str(recipe), "laptop").recipe.data
    assert data.normalize.name == "per_image"
    assert data.train_transforms == (TrivialAugment(), ColorJitter())
    assert [transform.name for transform in data.batch_transforms] == ["mixup_or_cutmix", "random_erasing"]


@pytest.mark.parametrize(
    ("transforms", "why"),
    [
        ([], None),
        ([CenterCrop()], None),
        ([Resize(size=64)], None),
        ([Resize(size=73), CenterCrop()], None),
        ([Resize(size=60), RandomCrop(padding=2)], None),
        ([RandomResizedCrop(), RandomCrop(padding=0)], None),
        ([Resize(size=63), CenterCrop()], "center_crop gets 63 pixels a side"),
        ([Resize(size=60), RandomCrop(padding=1)], "random_crop gets 62 pixels a side"),
        ([RandomResizedCrop(), ColorJitter(), Resize(size=63)], "the last resize leaves 63 pixels a side"),
    ],
)
def test_lists_that_can_give_no_square_of_image_size_are_known(transforms: list[Choice], why: str | None) -> None:
    assert never_square(transforms, 64) == why
