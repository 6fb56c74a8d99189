"""What every per-sample transform keeps: shape, type, its input, and that it is a function of the stream alone."""

from __future__ import annotations

import typing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from megabatch.configs.base import Choice
from megabatch.configs.transforms import (
    AutoAugment,
    CenterCrop,
    ColorJitter,
    CustomTransform,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    RandAugment,
    RandomAffine,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    RandomRotation,
    Resize,
    Transform,
    TrivialAugment,
    VerticalFlip,
)
from megabatch.data.augment.chain import _implementation
from megabatch.data.decode import Pixels
from megabatch.data.hashing import RandomStream, key

KEEP_THE_SIZE = [
    HorizontalFlip(probability=1.0),
    VerticalFlip(probability=1.0),
    RandomRotation(degrees=30),
    RandomAffine(degrees=10, translate=(0.2, 0.2), scale=(0.5, 2.0), shear=(20, 10), fill=(9, 8, 7)),
    ColorJitter(hue=0.3),
    Grayscale(probability=1.0),
    GaussianBlur(probability=1.0),
    RandAugment(num_ops=3, magnitude=30),
    TrivialAugment(interpolation="nearest", fill=(128, 128, 128)),
    AutoAugment(policy="imagenet"),
    AutoAugment(policy="cifar10"),
    RandomErasing(probability=1.0),
    CustomTransform(function="support.transforms:dimmed", options={"least": 0.5}),
]
CHANGE_IT = [RandomResizedCrop(), RandomCrop(), Resize(size=9), CenterCrop()]
SIZES = [(1, 1), (1, 7), (3, 500), (33, 32)]


def picture(height: int, width: int, seed: int = 0) -> Pixels:
    """Return noise with few grey levels missing and smooth parts: every operation has something to do."""
    random = np.random.default_rng(seed)
    ramp = np.linspace(20, 230, width)[None, :, None] + random.normal(0, 12, (height, width, 3))
    return ramp.clip(0, 255).astype(np.uint8)


def apply(settings: Choice, image: Pixels, number: int, image_size: int = 8) -> Pixels:
    return _implementation(settings)(image, settings, image_size, RandomStream(key(number)))


def identifier(value: object) -> str:
    return value.name if isinstance(value, Choice) else str(value)  # type: ignore[attr-defined]


def test_no_transform_is_left_out() -> None:
    union = typing.get_args(typing.get_args(Transform)[0])
    assert {type(settings) for settings in [*KEEP_THE_SIZE, *CHANGE_IT]} == set(union)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("settings", KEEP_THE_SIZE, ids=identifier)
def test_images_of_any_size_keep_their_shape_and_type(settings: Choice, size: tuple[int, int]) -> None:
    image = picture(*size)
    for number in range(20):
        out = apply(settings, image, number)
        assert out.shape == image.shape
        assert out.dtype == np.uint8


@pytest.mark.parametrize("settings", [*KEEP_THE_SIZE, *CHANGE_IT], ids=identifier)
def test_the_result_depends_on_the_stream_alone(settings: Choice) -> None:
    """Not on torch's or numpy's generators, nor on what came before, nor on the thread; and the input stays as it is."""
    image = picture(40, 30)
    before = image.copy()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    first = [apply(settings, image, number).copy() for number in range(12)]
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[index]
    torch.rand(7)
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda number: apply(settings, image, number).copy(), reversed(range(12))))
    assert all(np.array_equal(one, other) for one, other in zip(first, reversed(again), strict=True))
    assert np.array_equal(image, before)


@pytest.mark.parametrize("settings", KEEP_THE_SIZE, ids=identifier)
def test_a_view_into_a_larger_image_gives_the_pixels_of_its_copy(settings: Choice) -> None:
    view = picture(60, 50)[7:40, 3:37]
    for number in range(6):
        assert np.array_equal(apply(settings, view, number), apply(settings, view.copy(), number))


@pytest.mark.parametrize("settings", KEEP_THE_SIZE, ids=identifier)
def test_the_number_of_torch_threads_changes_no_pixel(settings: Choice) -> None:
    """It belongs to the cluster file. The image is large enough for torch to split its sums over the threads."""
    image = picture(700, 600)
    threads = torch.get_num_threads()
    outs = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            outs.append([apply(settings, image, number) for number in range(3)])
    finally:
        torch.set_num_threads(threads)
    assert all(np.array_equal(one, other) for one, other in zip(*outs, strict=True))
