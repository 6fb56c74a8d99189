"""Vertical flips, rotations and affine maps of one image, called as all transforms are (see geometry.py)."""

from __future__ import annotations

import torch
from torchvision.transforms.v2 import functional

from megabatch.configs.transforms import Color, RandomAffine, RandomRotation, VerticalFlip
from megabatch.data.augment.tensors import channels_first, channels_last
from megabatch.data.decode import Pixels
from megabatch.data.hashing import RandomStream


def vertical_flip(image_HWC: Pixels, settings: VerticalFlip, image_size: int, stream: RandomStream) -> Pixels:
    """Exchange top and bottom with the given probability."""
    if stream.uniform() >= settings.probability:
        return image_HWC
    flipped: Pixels = torch.from_numpy(image_HWC).flip(0).numpy()
    return flipped


def random_rotation(image_HWC: Pixels, settings: RandomRotation, image_size: int, stream: RandomStream) -> Pixels:
    """Turn the image about its middle by an angle from [-degrees, degrees)."""
    angle = _within(settings.degrees, stream)
    turned = functional.rotate(
        channels_first(image_HWC),
        angle,
        interpolation=functional.InterpolationMode(settings.interpolation),
        fill=fill_values(settings.fill),
    )
    return channels_last(turned)


def random_affine(image_HWC: Pixels, settings: RandomAffine, image_size: int, stream: RandomStream) -> Pixels:
    """Turn, shift, scale and shear the image about its middle; the draws have the ranges and order of torchvision."""
    height, width = image_HWC.shape[:2]
    angle = _within(settings.degrees, stream)
    translate = [
        round(_within(settings.translate[0] * width, stream)),
        round(_within(settings.translate[1] * height, stream)),
    ]
    scale = stream.uniform(*settings.scale)
    shear = [_within(limit, stream) for limit in settings.shear]
    moved = functional.affine(
        channels_first(image_HWC),
        angle,
        translate,
        scale,
        shear,
        interpolation=functional.InterpolationMode(settings.interpolation),
        fill=fill_values(settings.fill),
    )
    return channels_last(moved)


def fill_values(color: Color) -> list[float] | None:
    """Return the colour as torchvision takes it. Black is None: zero padding, without a mask channel to blend with."""
    return [float(value) for value in color] if any(color) else None


def _within(limit: float, stream: RandomStream) -> float:
    return stream.uniform(-limit, limit)
