"""Normalization on the device against numpy in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from megabatch.configs.normalization import Fixed, MinMax, PerImage
from megabatch.trainer.build import implementation

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
Reference = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def images(kind: str) -> torch.Tensor:
    random = np.random.default_rng(0)
    made = {
        "noise": random.integers(0, 256, (4, 7, 5, 3)),
        "flat": np.stack([np.full((7, 5, 3), value) for value in (0, 1, 128, 255)]),
        "two levels": 100 + random.integers(0, 2, (4, 7, 5, 3)),
        "one pixel": random.integers(0, 256, (4, 1, 1, 3)),
    }
    return torch.from_numpy(made[kind].astype(np.uint8))


def fixed(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    return (pixels / 255 - np.array([0.1, 0.5, 0.9])) / np.array([0.5, 0.25, 2.0])


def per_image(axes: tuple[int, ...]) -> Reference:
    def reference(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        pixels = pixels / 255
        floor = 1 / np.sqrt(np.prod([pixels.shape[axis] for axis in axes]))
        return (pixels - pixels.mean(axes, keepdims=True)) / np.maximum(pixels.std(axes, keepdims=True), floor)

    return reference


def min_max(axes: tuple[int, ...], symmetric: bool) -> Reference:
    def reference(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        low, high = pixels.min(axes, keepdims=True), pixels.max(axes, keepdims=True)
        unit = (pixels - low) / np.where(high > low, high - low, 1)
        return np.where(high > low, 2 * unit - 1, 0) if symmetric else unit

    return reference


CASES = [
    (Fixed(mean=(0.1, 0.5, 0.9), std=(0.5, 0.25, 2.0)), fixed),
    (PerImage(), per_image((1, 2, 3))),
    (PerImage(channels="each"), per_image((1, 2))),
    (MinMax(), min_max((1, 2, 3), symmetric=False)),
    (MinMax(channels="each"), min_max((1, 2), symmetric=False)),
    (MinMax(symmetric=True), min_max((1, 2, 3), symmetric=True)),
    (MinMax(symmetric=True, channels="each"), min_max((1, 2), symmetric=True)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["noise", "flat", "two levels", "one pixel"])
@pytest.mark.parametrize(("settings", "reference"), CASES, ids=lambda value: str(getattr(value, "name", "")))
def test_the_numbers_are_those_of_the_definition(
    settings: Fixed | PerImage | MinMax, reference: Reference, kind: str, dtype: torch.dtype
) -> None:
    images_NHWC = images(kind)
    before = images_NHWC.clone()
    out_NCHW = implementation(settings)(settings, CPU, dtype)(images_NHWC)
    expected = reference(images_NHWC.numpy().astype(np.float64)).transpose(0, 3, 1, 2)
    assert out_NCHW.dtype == dtype
    np.testing.assert_allclose(out_NCHW.numpy(), expected, rtol=TOLERANCE[dtype], atol=3 * TOLERANCE[dtype])
    assert torch.equal(images_NHWC, before)


@pytest.mark.parametrize(("settings", "reference"), CASES, ids=lambda value: str(getattr(value, "name", "")))
def test_channels_stay_last_in_memory(settings: Fixed | PerImage | MinMax, reference: Reference) -> None:
    out_NCHW = implementation(settings)(settings, CPU, torch.float32)(images("noise"))
    assert out_NCHW.is_contiguous(memory_format=torch.channels_last)


def test_an_image_depends_on_no_other_image_of_the_batch() -> None:
    for settings in (PerImage(), MinMax()):
        normalize = implementation(settings)(settings, CPU, torch.float64)
        together, alone = normalize(images("noise")), [normalize(image[None]) for image in images("noise")]
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-14, atol=1e-14)
