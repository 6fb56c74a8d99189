"""Decoding and transforming in one go gives what decoding first and transforming then gives, near Pillow's pixels."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from megabatch.configs.base import Choice
from megabatch.configs.transforms import CenterCrop, HorizontalFlip, RandomResizedCrop, Resize
from megabatch.data.augment.chain import chain, decoding_chain
from megabatch.data.augment.geometry import crop_region
from megabatch.data.decode import decode_image
from megabatch.data.hashing import RandomStream, key

SIZE = 64
MILLION = 1_000_000


def photo(number: int) -> bytes:
    generator = np.random.default_rng(number)
    height, width = generator.integers(90, 300, 2)
    small = Image.fromarray(generator.integers(0, 255, (9, 12, 3), dtype=np.uint8))
    pixels = np.array(small.resize((int(width), int(height)), Image.Resampling.BICUBIC)).astype(int)
    pixels = (pixels + generator.integers(-12, 12, pixels.shape)).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92, subsampling=int(generator.integers(0, 3)))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "transforms",
    [
        [RandomResizedCrop()],
        [RandomResizedCrop(), HorizontalFlip()],
        [RandomResizedCrop(), Resize(size=SIZE), CenterCrop(), HorizontalFlip(probability=1)],
        [Resize(size=70), CenterCrop(), HorizontalFlip()],
    ],
    ids=["crop", "crop and flip", "crop and more", "no crop"],
)
def test_decoding_in_the_chain_changes_no_pixel(transforms: list[Choice]) -> None:
    fused, plain = decoding_chain(transforms, SIZE, MILLION), chain(transforms, SIZE)
    for number in range(20):
        payload, out = photo(number), np.empty((SIZE, SIZE, 3), dtype=np.uint8)
        fused(payload, RandomStream(key(number)), out)
        assert np.array_equal(out, plain(decode_image(payload, MILLION), RandomStream(key(number))))


def test_the_batch_is_as_good_as_pillows() -> None:
    """Peak signal-to-noise ratio against a full decode and an antialiased bilinear resize by Pillow, same crops."""
    settings = RandomResizedCrop()
    transform = decoding_chain([settings], SIZE, MILLION)
    ratios = []
    for number in range(60):
        payload, out = photo(number), np.empty((SIZE, SIZE, 3), dtype=np.uint8)
        transform(payload, RandomStream(key(number)), out)
        image = Image.open(io.BytesIO(payload)).convert("RGB")
        top, left, height, width = crop_region(image.height, image.width, settings, RandomStream(key(number)))
        crop = image.crop((left, top, left + width, top + height))
        expected = np.array(crop.resize((SIZE, SIZE), Image.Resampling.BILINEAR)).astype(float)
        error = max(float(((out - expected) ** 2).mean()), 1e-4)
        ratios.append(10 * math.log10(255**2 / error))
    assert np.percentile(ratios, 5) >= 48


def test_an_image_that_does_not_come_out_at_the_size_is_told() -> None:
    with pytest.raises(ValueError, match=r"after the transforms, but data.image_size is 64"):
        decoding_chain([], SIZE, MILLION)(photo(0), RandomStream(0), torch.zeros(SIZE, SIZE, 3).byte().numpy())
