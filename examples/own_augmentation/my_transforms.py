"""An augmentation of your own: light that falls in from one side."""

import numpy as np
from numpy.typing import NDArray

from megabatch.data.hashing import RandomStream


def sunlight(image_HWC: NDArray[np.uint8], stream: RandomStream, strength: float) -> NDArray[np.uint8]:
    """Make one side of the image brighter and the other darker, along a random direction, by up to `strength`.

    The image is uint8 RGB of any size, and so is what is returned. Random numbers come from `stream` alone, which is
    a function of (seed, epoch, sample): a sample looks the same on any number of ranks, and after a resume. numpy's
    and torch's own generators would not.
    """
    height, width = image_HWC.shape[:2]
    angle = stream.uniform(0.0, 2 * np.pi)
    rows_H1 = np.linspace(-1, 1, height)[:, None] * np.sin(angle)
    columns_1W = np.linspace(-1, 1, width)[None, :] * np.cos(angle)
    light_HW1 = 1 + stream.uniform(0.0, strength) * (rows_H1 + columns_1W)[:, :, None]
    return (image_HWC * light_HW1).clip(0, 255).astype(np.uint8)
