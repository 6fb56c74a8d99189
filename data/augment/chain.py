"""A recipe's list of transforms as one function of an image and a random stream."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

from megabatch.configs.base import Choice
from megabatch.data.decode import Pixels
from megabatch.data.hashing import RandomStream

ImageTransform = Callable[[Pixels, RandomStream], Pixels]


def chain(transforms: Sequence[Choice], image_size: int) -> ImageTransform:
    """Return the transforms applied one after the other; the result must be image_size x image_size.

    The returned function raises ValueError where an image comes out in another size.
    """
    steps = [(_implementation(settings), settings) for settings in transforms]

    def apply(image_HWC: Pixels, stream: RandomStream) -> Pixels:
        for function, settings in steps:
            image_HWC = function(image_HWC, settings, image_size, stream)
        if image_HWC.shape != (image_size, image_size, 3):
            height, width = image_HWC.shape[:2]
            raise ValueError(
                f"{width} x {height} pixels after the transforms, but data.image_size is {image_size}: "
                f"add {{name: resize, size: {image_size}}} and center_crop to the transforms"
            )
        return image_HWC

    return apply


def _implementation(settings: Choice) -> Callable[[Pixels, Choice, int, RandomStream], Pixels]:
    module, _, function = settings.implementation.partition(":")
    found: Callable[[Pixels, Choice, int, RandomStream], Pixels] = getattr(importlib.import_module(module), function)
    return found
