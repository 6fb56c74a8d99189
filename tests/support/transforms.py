"""Transforms as a user writes them: one that is right, and each way to be wrong."""

from __future__ import annotations

import numpy as np

from megabatch.data.decode import Pixels
from megabatch.data.hashing import RandomStream


def dimmed(image_HWC: Pixels, stream: RandomStream, least: float) -> Pixels:
    return (image_HWC * stream.uniform(least, 1.0)).astype(np.uint8)


def broken(image_HWC: Pixels, stream: RandomStream) -> Pixels:
    raise ValueError("no such colour")


def floats(image_HWC: Pixels, stream: RandomStream) -> object:
    return image_HWC / 255


def nothing(image_HWC: Pixels, stream: RandomStream) -> None:
    return None
