"""The operations that AutoAugment, RandAugment and TrivialAugment choose from, and how strong a bin of each is.

A table of our own over torchvision's public functions: torchvision's table is private, so a new version could change
what a recipe trains on without a word. A test compares every operation and bin with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torchvision.transforms.v2 import functional

from megabatch.data.augment.color import adjust_contrast


class Border(NamedTuple):
    """How the geometric operations interpolate, and what they put where the image does not reach."""

    interpolation: functional.InterpolationMode
    fill: list[float] | None


Magnitude = Callable[[float, int, int], float]
Apply = Callable[[torch.Tensor, float, Border], torch.Tensor]


class Operation(NamedTuple):
    """One operation on image_CHW (uint8).

    `magnitude(share, height, width)` is its strength for a share of the scale, 0 to 1; None: there is only one.
    A signed one goes either way with equal chance.
    """

    apply: Apply
    magnitude: Magnitude | None = None
    signed: bool = False


Space = dict[str, Operation]


def _up_to(most: float) -> Magnitude:
    return lambda share, height, width: share * most


def _share_of_width(most: float) -> Magnitude:
    return lambda share, height, width: share * most * width


def _share_of_height(most: float) -> Magnitude:
    return lambda share, height, width: share * most * height


def _bits_left(fewer: int) -> Magnitude:
    return lambda share, height, width: round(8 - share * fewer)


def _threshold(share: float, height: int, width: int) -> float:
    return 255 * (1 - share)


def _shear(image: torch.Tensor, along_x: float, along_y: float, border: Border) -> torch.Tensor:
    """Shift every row (column) by `along` times its distance from the upper (left) edge."""
    degrees = [math.degrees(math.atan(along_x)), math.degrees(math.atan(along_y))]
    sheared: torch.Tensor = functional.affine(
        image, 0.0, [0, 0], 1.0, degrees, border.interpolation, border.fill, [0, 0]
    )
    return sheared


def _translate(image: torch.Tensor, x: float, y: float, border: Border) -> torch.Tensor:
    shift = [int(x), int(y)]
    moved: torch.Tensor = functional.affine(image, 0.0, shift, 1.0, [0.0, 0.0], border.interpolation, border.fill)
    return moved


def _rotate(image: torch.Tensor, degrees: float, border: Border) -> torch.Tensor:
    turned: torch.Tensor = functional.rotate(image, degrees, border.interpolation, fill=border.fill)
    return turned


def _space(shear: float, across: Magnitude, down: Magnitude, degrees: float, enhance: float, fewer_bits: int) -> Space:
    """Return the operations with the largest magnitude of each; the order is torchvision's."""
    change = _up_to(enhance)
    return {
        "ShearX": Operation(lambda image, m, border: _shear(image, m, 0.0, border), _up_to(shear), signed=True),
        "ShearY": Operation(lambda image, m, border: _shear(image, 0.0, m, border), _up_to(shear), signed=True),
        "TranslateX": Operation(lambda image, m, border: _translate(image, m, 0.0, border), across, signed=True),
        "TranslateY": Operation(lambda image, m, border: _translate(image, 0.0, m, border), down, signed=True),
        "Rotate": Operation(_rotate, _up_to(degrees), signed=True),
        "Brightness": Operation(lambda image, m, _: functional.adjust_brightness(image, 1 + m), change, signed=True),
        "Color": Operation(lambda image, m, _: functional.adjust_saturation(image, 1 + m), change, signed=True),
        "Contrast": Operation(lambda image, m, _: adjust_contrast(image, 1 + m), change, signed=True),
        "Sharpness": Operation(lambda image, m, _: functional.adjust_sharpness(image, 1 + m), change, signed=True),
        "Posterize": Operation(lambda image, m, _: functional.posterize(image, int(m)), _bits_left(fewer_bits)),
        "Solarize": Operation(lambda image, m, _: functional.solarize(image, m), _threshold),
        "AutoContrast": Operation(lambda image, m, _: functional.autocontrast(image)),
        "Equalize": Operation(lambda image, m, _: functional.equalize(image)),
    }


_IDENTITY = {"Identity": Operation(lambda image, m, border: image)}
_INVERT = {"Invert": Operation(lambda image, m, border: functional.invert(image))}
_TRANSLATION = 150 / 331  # Cubuk et al. 2019 shift images of 331 pixels by up to 150
_LEARNED = _space(0.3, _share_of_width(_TRANSLATION), _share_of_height(_TRANSLATION), 30.0, 0.9, 4)

AUTO: Space = {**_LEARNED, **_INVERT}
RAND: Space = {**_IDENTITY, **_LEARNED}
TRIVIAL_WIDE: Space = {**_IDENTITY, **_space(0.99, _up_to(32), _up_to(32), 135.0, 0.99, 6)}
