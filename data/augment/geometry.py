"""Crops, flips and resizing of one image. Pixels are uint8 RGB of shape (height, width, 3), called image_HWC.

Every transform is called with (image_HWC, settings, image_size, stream) and returns an image; the random numbers come
from the stream alone, so the result is a function of (seed, epoch, sample).
"""

from __future__ import annotations

import math

import numpy as np
import torch

from megabatch.configs.transforms import CenterCrop, HorizontalFlip, RandomCrop, RandomResizedCrop, Resize
from megabatch.data.decode import Pixels
from megabatch.data.hashing import RandomStream
from megabatch.data.jpeg.header import Region

_CROP_TRIES = 10  # as in torchvision


def resize_to(image_HWC: Pixels, height: int, width: int, out_HWC: Pixels | None = None) -> Pixels:
    """Return the image at another size: bilinear with antialiasing, the filter of Pillow and torchvision.

    The pixels are written to `out_HWC` where that is given; an image that has the size already is returned as it is.
    """
    if image_HWC.shape[:2] == (height, width):
        return image_HWC
    resized = np.empty((height, width, 3), dtype=np.uint8) if out_HWC is None else out_HWC
    image_NCHW, resized_NCHW = _channels_first(image_HWC), _channels_first(resized)
    # What F.interpolate(mode="bilinear", antialias=True) calls; with `out` it writes in our layout, half the time.
    torch.ops.aten._upsample_bilinear2d_aa.out(image_NCHW, (height, width), False, None, None, out=resized_NCHW)
    return resized


def _channels_first(image_HWC: Pixels) -> torch.Tensor:
    return torch.from_numpy(image_HWC).permute(2, 0, 1).unsqueeze(0)


def random_resized_crop(
    image_HWC: Pixels, settings: RandomResizedCrop, image_size: int, stream: RandomStream
) -> Pixels:
    """Crop a random area and shape, resize it to a square (Szegedy et al. 2015; draws as in torchvision)."""
    top, left, height, width = crop_region(image_HWC.shape[0], image_HWC.shape[1], settings, stream)
    return resize_to(image_HWC[top : top + height, left : left + width], image_size, image_size)


def crop_region(height: int, width: int, settings: RandomResizedCrop, stream: RandomStream) -> Region:
    """Draw which part of an image of this size random_resized_crop takes."""
    log_ratio = (math.log(settings.ratio[0]), math.log(settings.ratio[1]))
    for _ in range(_CROP_TRIES):
        area = height * width * stream.uniform(*settings.scale)
        ratio = math.exp(stream.uniform(*log_ratio))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top, left = stream.integer(height - crop_height + 1), stream.integer(width - crop_width + 1)
            return Region(top, left, crop_height, crop_width)
    crop_width = min(width, max(1, round(height * settings.ratio[1])))
    crop_height = min(height, max(1, round(width / settings.ratio[0])))
    return Region((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width)


def random_crop(image_HWC: Pixels, settings: RandomCrop, image_size: int, stream: RandomStream) -> Pixels:
    """Pad every side with black and take a random square of image_size."""
    height, width = (side + 2 * settings.padding for side in image_HWC.shape[:2])
    _require_at_least(height, width, image_size, "random_crop")
    top = stream.integer(height - image_size + 1) - settings.padding
    left = stream.integer(width - image_size + 1) - settings.padding
    result = np.zeros((image_size, image_size, 3), dtype=np.uint8)
    inside = image_HWC[max(top, 0) : top + image_size, max(left, 0) : left + image_size]
    result[max(-top, 0) :, max(-left, 0) :][: inside.shape[0], : inside.shape[1]] = inside
    return result


def horizontal_flip(image_HWC: Pixels, settings: HorizontalFlip, image_size: int, stream: RandomStream) -> Pixels:
    """Exchange left and right with the given probability."""
    if stream.uniform() >= settings.probability:
        return image_HWC
    flipped: Pixels = torch.from_numpy(image_HWC).flip(1).numpy()  # numpy's reversed view is ten times slower to copy
    return flipped


def resize(image_HWC: Pixels, settings: Resize, image_size: int, stream: RandomStream) -> Pixels:
    """Resize the shorter side to settings.size, keeping the shape."""
    height, width = image_HWC.shape[:2]
    shorter = min(height, width)
    return resize_to(image_HWC, height * settings.size // shorter, width * settings.size // shorter)


def center_crop(image_HWC: Pixels, settings: CenterCrop, image_size: int, stream: RandomStream) -> Pixels:
    """Take the square of image_size in the middle."""
    height, width = image_HWC.shape[:2]
    _require_at_least(height, width, image_size, "center_crop")
    top, left = (height - image_size) // 2, (width - image_size) // 2
    return image_HWC[top : top + image_size, left : left + image_size]


def _require_at_least(height: int, width: int, image_size: int, transform: str) -> None:
    if height < image_size or width < image_size:
        raise ValueError(
            f"{width} x {height} pixels are too few for {transform} to data.image_size = {image_size}: "
            f"put {{name: resize, size: {image_size}}} before it"
        )
