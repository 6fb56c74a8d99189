"""A recipe's list of transforms as one function: of an image, or of encoded bytes that become one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

from megabatch.configs.base import Choice
from megabatch.configs.transforms import RandomResizedCrop
from megabatch.data.augment.geometry import crop_region, resize_to
from megabatch.data.decode import EncodedImage, Pixels, decode_image
from megabatch.data.hashing import RandomStream

ImageTransform = Callable[[Pixels, RandomStream], Pixels]
SampleTransform = Callable[[memoryview | bytes, RandomStream, Pixels], None]


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


def decoding_chain(transforms: Sequence[Choice], image_size: int, max_pixels: int) -> SampleTransform:
    """Return a function that decodes one image, transforms it like `chain`, and writes it to the given array.

    A random crop that comes first is drawn before anything is decoded, so that only its part needs decoding. The
    pixels are those of decoding everything. Raises ValueError for an image that cannot be decoded or does not fit.
    """
    crop = transforms[0] if transforms else None
    if not isinstance(crop, RandomResizedCrop):
        whole = chain(transforms, image_size)

        def decode(payload: memoryview | bytes, stream: RandomStream, out_HWC: Pixels) -> None:
            out_HWC[:] = whole(decode_image(payload, max_pixels), stream)

        return decode
    rest = chain(transforms[1:], image_size)

    def decode_crop(payload: memoryview | bytes, stream: RandomStream, out_HWC: Pixels) -> None:
        image = EncodedImage(payload, max_pixels)
        part_HWC = image.region(crop_region(image.height, image.width, crop, stream))
        done_HWC = rest(resize_to(part_HWC, image_size, image_size, out_HWC), stream)
        if done_HWC is not out_HWC:
            out_HWC[:] = done_HWC

    return decode_crop


def _implementation(settings: Choice) -> Callable[[Pixels, Choice, int, RandomStream], Pixels]:
    module, _, function = settings.implementation.partition(":")
    found: Callable[[Pixels, Choice, int, RandomStream], Pixels] = getattr(importlib.import_module(module), function)
    return found
