"""Augmentation of recipe.yaml: `{name: custom, function: "my_transforms:thicken", options: ...}`."""

import numpy as np
from numpy.typing import NDArray

from megabatch.data.hashing import RandomStream


def thicken(image_HWC: NDArray[np.uint8], stream: RandomStream, strength: float) -> NDArray[np.uint8]:
    """Mix the image with its brightest neighbours, by a random share of up to `strength`.

    Random numbers come from `stream` alone: a sample then looks the same on any number of ranks, and after a resume.
    """
    share = stream.uniform(0.0, strength)
    left, right = np.roll(image_HWC, 1, axis=1), np.roll(image_HWC, -1, axis=1)
    brightest = np.maximum(image_HWC, np.maximum(left, right))
    return ((1 - share) * image_HWC + share * brightest).astype(np.uint8)
