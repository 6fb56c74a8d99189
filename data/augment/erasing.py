"""Random erasing of one image; trainer/batch_augment draws its rectangles here too."""

from __future__ import annotations

import math

import numpy as np

from megabatch.configs.transforms import AreaAndShape, RandomErasing
from megabatch.data.decode import Pixels
from megabatch.data.hashing import RandomStream

_TRIES = 10  # as in torchvision and timm


def random_erasing(image_HWC: Pixels, settings: RandomErasing, image_size: int, stream: RandomStream) -> Pixels:
    """Fill a random rectangle with black or the mean colour of the image, with the given probability."""
    if stream.uniform() >= settings.probability:
        return image_HWC
    height, width = image_HWC.shape[:2]
    rows, columns = erased_part(height, width, settings, stream)
    erased = image_HWC.copy()
    erased[rows, columns] = 0 if settings.fill == "black" else _mean_color(image_HWC)
    return erased


def _mean_color(image_HWC: Pixels) -> Pixels:
    sums_C = image_HWC.sum(axis=0, dtype=np.uint32).sum(axis=0)  # one axis at a time: ten times as fast as mean()
    mean_C: Pixels = (sums_C / (image_HWC.shape[0] * image_HWC.shape[1])).round().astype(np.uint8)
    return mean_C


def erased_part(height: int, width: int, settings: AreaAndShape, stream: RandomStream) -> tuple[slice, slice]:
    """Return the rows and columns to erase (Zhong et al. 2020, algorithm 1; draws as in torchvision).

    The rectangle is smaller than the image on both sides; it is empty if ten tries find none that fits.
    """
    log_ratio = (math.log(settings.ratio[0]), math.log(settings.ratio[1]))
    for _ in range(_TRIES):
        area = height * width * stream.uniform(*settings.scale)
        ratio = math.exp(stream.uniform(*log_ratio))
        part_height, part_width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if part_height < height and part_width < width:
            top, left = stream.integer(height - part_height + 1), stream.integer(width - part_width + 1)
            return slice(top, top + part_height), slice(left, left + part_width)
    return slice(0, 0), slice(0, 0)
