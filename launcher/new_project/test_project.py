"""Tests of this project: python -m pytest."""

from pathlib import Path

import my_model
import my_transforms
import numpy as np
import torch

from megabatch.configs.load import load
from megabatch.data.hashing import RandomStream

HERE = Path(__file__).parent


def test_the_network_gives_a_number_for_each_class() -> None:
    assert my_model.build(num_classes=10)(torch.zeros(4, 3, 8, 8)).shape == (4, 10)


def test_the_augmentation_is_a_function_of_the_stream() -> None:
    image_HWC = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    first, again, other = (my_transforms.thicken(image_HWC, RandomStream(key), strength=0.9) for key in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert (first.astype(int) >= image_HWC.astype(int) - 1).all()  # it makes no stroke thinner


def test_recipe_and_cluster_are_valid() -> None:
    loaded = load(str(HERE / "recipe.yaml"), str(HERE / "cluster.yaml"))
    assert loaded.recipe.model.name == "my_model:build"
