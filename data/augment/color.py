"""Colours and sharpness of one image: jitter, grey, blur. Called as all transforms are (see geometry.py)."""

from __future__ import annotations

import itertools
import math

import torch
from torchvision.transforms.v2 import functional

from megabatch.configs.transforms import ColorJitter, GaussianBlur, Grayscale
from megabatch.data.augment.tensors import channels_first, channels_last
from megabatch.data.decode import Pixels
from megabatch.data.hashing import RandomStream

_ORDERS = tuple(itertools.permutations(range(4)))
_SIGMAS_KEPT = 3  # as in OpenCV for 8-bit images: what is cut off weighs 0.3 %


def color_jitter(image_HWC: Pixels, settings: ColorJitter, image_size: int, stream: RandomStream) -> Pixels:
    """Change brightness, contrast, saturation and hue in random order; the draws have the ranges of torchvision."""
    if stream.uniform() >= settings.probability:
        return image_HWC
    strengths = (settings.brightness, settings.contrast, settings.saturation)
    factors = [stream.uniform(max(0.0, 1 - strength), 1 + strength) for strength in strengths]
    factors.append(stream.uniform(-settings.hue, settings.hue))
    image_CHW = channels_first(image_HWC)
    for which in _ORDERS[stream.integer(len(_ORDERS))]:
        if (*strengths, settings.hue)[which] > 0:
            image_CHW = _ADJUST[which](image_CHW, factors[which])
    return channels_last(image_CHW)


def adjust_contrast(image_CHW: torch.Tensor, factor: float) -> torch.Tensor:
    """Return `factor * image + (1 - factor) * m`, m the mean of the grey image, as torchvision does.

    torchvision adds up m in float32, so in large images it depends on the number of threads; whole numbers do not.
    """
    grey_1HW = functional.rgb_to_grayscale(image_CHW)
    mean = torch.tensor(int(grey_1HW.sum(dtype=torch.int64)) / grey_1HW.numel())
    return image_CHW.mul(factor).add_(mean, alpha=1 - factor).clamp_(0, 255).to(torch.uint8)


_ADJUST = (
    functional.adjust_brightness,
    adjust_contrast,
    functional.adjust_saturation,
    functional.adjust_hue,
)


def grayscale(image_HWC: Pixels, settings: Grayscale, image_size: int, stream: RandomStream) -> Pixels:
    """Set all channels to 0.2989 R + 0.587 G + 0.114 B with the given probability."""
    if stream.uniform() >= settings.probability:
        return image_HWC
    return channels_last(functional.rgb_to_grayscale(channels_first(image_HWC), num_output_channels=3))


def gaussian_blur(image_HWC: Pixels, settings: GaussianBlur, image_size: int, stream: RandomStream) -> Pixels:
    """Blur with a random sigma (pixels); beyond the border the image is mirrored."""
    if stream.uniform() >= settings.probability:
        return image_HWC
    sigma = stream.uniform(*settings.sigma)
    radius = math.ceil(_SIGMAS_KEPT * sigma)
    image_CHW = channels_first(image_HWC)
    # A side can be mirrored by its length less one, so a narrow image gets a shorter kernel along that side.
    kernel_xy = [2 * min(radius, side - 1) + 1 for side in (image_CHW.shape[2], image_CHW.shape[1])]
    return channels_last(functional.gaussian_blur(image_CHW, kernel_xy, [sigma, sigma]))
