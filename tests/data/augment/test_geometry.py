"""Crops, flips and resizing: the same pixels as Pillow, and draws that depend on the sample alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from megabatch.configs.transforms import CenterCrop, HorizontalFlip, RandomCrop, RandomResizedCrop, Resize
from megabatch.data.augment.chain import chain
from megabatch.data.augment.geometry import resize_to
from megabatch.data.hashing import RandomStream, key


def noise(height: int, width: int) -> np.ndarray:
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 9, 3), dtype=np.uint8))
    return np.array(smooth.resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("size", [(24, 24), (100, 60), (7, 50)])
def test_resizing_gives_pillows_antialiased_pixels(size: tuple[int, int]) -> None:
    image = noise(60, 80)
    expected = np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    assert np.abs(resize_to(image, *size).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("size", [(24, 24), (100, 60), (7, 50)])
def test_the_operator_we_call_is_the_one_behind_interpolate(size: tuple[int, int]) -> None:
    image = noise(60, 80)
    image_NCHW = torch.from_numpy(image).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(image_NCHW, size, mode="bilinear", antialias=True)
    assert np.array_equal(resize_to(image, *size), expected[0].permute(1, 2, 0).numpy())


def test_resizing_a_crop_gives_the_pixels_of_resizing_its_copy() -> None:
    crop = noise(60, 80)[5:45, 7:60]
    assert np.array_equal(resize_to(crop, 24, 30), resize_to(crop.copy(), 24, 30))


def test_random_resized_crops_cover_the_asked_areas_and_shapes() -> None:
    from megabatch.data.augment.geometry import crop_region

    settings = RandomResizedCrop(scale=(0.2, 0.5), ratio=(0.8, 1.25))
    boxes = np.array([crop_region(200, 300, settings, RandomStream(key(n))) for n in range(500)])
    areas, ratios = boxes[:, 2] * boxes[:, 3] / 60_000, boxes[:, 3] / boxes[:, 2]
    assert 0.195 < areas.min() < 0.22
    assert 0.48 < areas.max() < 0.505
    assert ratios.min() > 0.78
    assert ratios.max() < 1.28
    assert (boxes[:, 0] + boxes[:, 2] <= 200).all()
    assert (boxes[:, 1] + boxes[:, 3] <= 300).all()


def test_an_image_too_long_for_any_crop_gives_its_middle() -> None:
    settings = RandomResizedCrop(scale=(1.0, 1.0))
    out = chain([settings], 16)(noise(10, 400), RandomStream(key(0)))
    assert out.shape == (16, 16, 3)


def test_random_crop_shifts_by_at_most_the_padding_and_fills_with_black() -> None:
    image = np.full((8, 8, 3), 255, dtype=np.uint8)
    crop = chain([RandomCrop(padding=2)], 8)
    seen = set()
    for n in range(300):
        white = crop(image, RandomStream(key(n)))[:, :, 0] == 255
        seen.add((int(white.any(axis=1).sum()), int(white.any(axis=0).sum())))
    assert seen == {(h, w) for h in (6, 7, 8) for w in (6, 7, 8)}


def test_random_crop_without_padding_takes_the_image_itself() -> None:
    image = noise(8, 8)
    assert np.array_equal(chain([RandomCrop(padding=0)], 8)(image, RandomStream(1)), image)


def test_flips_come_with_their_probability() -> None:
    image = noise(8, 8)
    for probability in (0.0, 0.3, 1.0):
        flip = chain([HorizontalFlip(probability=probability)], 8)
        flipped = [np.array_equal(flip(image, RandomStream(key(n))), image[:, ::-1]) for n in range(1000)]
        assert abs(np.mean(flipped) - probability) < 0.05


def test_evaluation_takes_the_middle_of_the_shorter_side() -> None:
    image = noise(100, 200)
    out = chain([Resize(size=50), CenterCrop()], 40)(image, RandomStream(0))
    expected = resize_to(image, 50, 100)[5:45, 30:70]
    assert np.array_equal(out, expected)


def test_a_result_of_another_size_is_an_error_that_names_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"200 x 100 pixels after the transforms, but data.image_size is 64: add"):
        chain([], 64)(noise(100, 200), RandomStream(0))
    with pytest.raises(ValueError, match=r"put \{name: resize, size: 64\} before it"):
        chain([CenterCrop()], 64)(noise(32, 32), RandomStream(0))
