"""The image transforms a recipe can list, for training and for evaluation. The pixel work is in data/augment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from megabatch.configs.base import (
    Choice,
    Fraction,
    ImportPath,
    NonNegativeFloat,
    NonNegativeInt,
    Options,
    PositiveFloat,
    PositiveInt,
    name_only,
)

Byte = Annotated[int, Field(ge=0, le=255)]
Color = tuple[Byte, Byte, Byte]
Degrees = Annotated[float, Field(ge=0, le=180)]
ShearDegrees = Annotated[float, Field(ge=0, lt=90)]
HueShift = Annotated[float, Field(ge=0, le=0.5)]
Interpolation = Literal["nearest", "bilinear"]


def require_ascending(key: str, limits: tuple[float, float], largest: float | None = None) -> None:
    """Raise ValueError unless limits are (smallest, largest) in this order, and at most `largest`."""
    if limits[0] > limits[1] or (largest is not None and limits[1] > largest):
        at_most = "" if largest is None else f", at most {largest:g}"
        raise ValueError(f"{key} is {list(limits)}: write [smallest, largest]{at_most}")


class AreaAndShape(Choice):
    """A rectangle's share of the image and its shape."""

    scale: tuple[PositiveFloat, PositiveFloat]
    ratio: tuple[PositiveFloat, PositiveFloat]

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        require_ascending("scale", self.scale, largest=1)
        require_ascending("ratio", self.ratio)
        return self


class RandomResizedCrop(AreaAndShape):
    """A random part of the image, of random area and shape, resized to image_size (Szegedy et al. 2015, section 6)."""

    implementation: ClassVar[str] = "megabatch.data.augment.geometry:random_resized_crop"
    name: Literal["random_resized_crop"] = "random_resized_crop"
    scale: tuple[PositiveFloat, PositiveFloat] = (0.08, 1.0)
    ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)


class RandomCrop(Choice):
    """A random image_size square after padding every side with `padding` black pixels (He et al. 2016, section 4.2)."""

    implementation: ClassVar[str] = "megabatch.data.augment.geometry:random_crop"
    name: Literal["random_crop"] = "random_crop"
    padding: NonNegativeInt = 4


class HorizontalFlip(Choice):
    """Left and right exchanged with the given probability."""

    implementation: ClassVar[str] = "megabatch.data.augment.geometry:horizontal_flip"
    name: Literal["horizontal_flip"] = "horizontal_flip"
    probability: Fraction = 0.5


class Resize(Choice):
    """The shorter side resized to `size` pixels, the shape kept; antialiased bilinear."""

    implementation: ClassVar[str] = "megabatch.data.augment.geometry:resize"
    name: Literal["resize"] = "resize"
    size: PositiveInt


class CenterCrop(Choice):
    """The image_size square in the middle."""

    implementation: ClassVar[str] = "megabatch.data.augment.geometry:center_crop"
    name: Literal["center_crop"] = "center_crop"


class VerticalFlip(Choice):
    """Top and bottom exchanged with the given probability."""

    implementation: ClassVar[str] = "megabatch.data.augment.affine:vertical_flip"
    name: Literal["vertical_flip"] = "vertical_flip"
    probability: Fraction = 0.5


class RandomRotation(Choice):
    """Turned about its middle by an angle between -degrees and degrees; the size stays, empty corners get `fill`."""

    implementation: ClassVar[str] = "megabatch.data.augment.affine:random_rotation"
    name: Literal["random_rotation"] = "random_rotation"
    degrees: Degrees
    interpolation: Interpolation = "bilinear"
    fill: Color = (0, 0, 0)


class RandomAffine(Choice):
    """Turned, shifted, scaled and sheared about its middle, as torchvision's RandomAffine.

    `translate` is the largest shift as a share of width and height; `shear` the largest angles along x and y.
    """

    implementation: ClassVar[str] = "megabatch.data.augment.affine:random_affine"
    name: Literal["random_affine"] = "random_affine"
    degrees: Degrees
    translate: tuple[Fraction, Fraction] = (0.0, 0.0)
    scale: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)
    shear: tuple[ShearDegrees, ShearDegrees] = (0.0, 0.0)
    interpolation: Interpolation = "bilinear"
    fill: Color = (0, 0, 0)

    @model_validator(mode="after")
    def _scale_ascends(self) -> Self:
        require_ascending("scale", self.scale)
        return self


class ColorJitter(Choice):
    """Brightness, contrast and saturation times a factor from [1 - x, 1 + x] (at least 0), hue turned by up to x.

    In random order, as torchvision's ColorJitter; a hue of 0.5 is half the colour circle. Hue takes most of the time.
    """

    implementation: ClassVar[str] = "megabatch.data.augment.color:color_jitter"
    name: Literal["color_jitter"] = "color_jitter"
    brightness: NonNegativeFloat = 0.4
    contrast: NonNegativeFloat = 0.4
    saturation: NonNegativeFloat = 0.4
    hue: HueShift = 0.0
    probability: Fraction = 1.0


class Grayscale(Choice):
    """All three channels set to the luma (ITU-R BT.601) with the given probability (Chen et al. 2020, appendix A)."""

    implementation: ClassVar[str] = "megabatch.data.augment.color:grayscale"
    name: Literal["grayscale"] = "grayscale"
    probability: Fraction = 0.2


class GaussianBlur(Choice):
    """Blurred by a Gaussian of random width `sigma`, in pixels, cut off at 3 sigma (Chen et al. 2020, appendix A)."""

    implementation: ClassVar[str] = "megabatch.data.augment.color:gaussian_blur"
    name: Literal["gaussian_blur"] = "gaussian_blur"
    probability: Fraction = 0.5
    sigma: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0)

    @model_validator(mode="after")
    def _sigma_ascends(self) -> Self:
        require_ascending("sigma", self.sigma)
        return self


class RandAugment(Choice):
    """`num_ops` random operations of one `magnitude`, 0 to 30 (Cubuk et al. 2020; operations as in torchvision)."""

    implementation: ClassVar[str] = "megabatch.data.augment.policies:rand_augment"
    name: Literal["rand_augment"] = "rand_augment"
    num_ops: PositiveInt = 2
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    interpolation: Interpolation = "bilinear"
    fill: Color = (0, 0, 0)


class TrivialAugment(Choice):
    """One random operation of random magnitude (Mueller and Hutter 2021, the wide space, as in torchvision)."""

    implementation: ClassVar[str] = "megabatch.data.augment.policies:trivial_augment"
    name: Literal["trivial_augment"] = "trivial_augment"
    interpolation: Interpolation = "bilinear"
    fill: Color = (0, 0, 0)


class AutoAugment(Choice):
    """One of 25 learned pairs of operations (Cubuk et al. 2019, appendix A)."""

    implementation: ClassVar[str] = "megabatch.data.augment.policies:auto_augment"
    name: Literal["auto_augment"] = "auto_augment"
    policy: Literal["imagenet", "cifar10"] = "imagenet"
    interpolation: Interpolation = "bilinear"
    fill: Color = (0, 0, 0)


class RandomErasing(AreaAndShape):
    """A random rectangle filled with black or with the image's own mean colour (Zhong et al. 2020, algorithm 1)."""

    implementation: ClassVar[str] = "megabatch.data.augment.erasing:random_erasing"
    name: Literal["random_erasing"] = "random_erasing"
    probability: Fraction = 0.25
    scale: tuple[PositiveFloat, PositiveFloat] = (0.02, 0.33)
    ratio: tuple[PositiveFloat, PositiveFloat] = (0.3, 3.3)
    fill: Literal["mean", "black"] = "mean"


class CustomTransform(Choice):
    """A transform of your own: `function` is package.module:callable, called with (image_HWC, stream) and the options.

    The image is uint8 RGB, and so is what it returns. Random numbers come from `stream.uniform(low, high)` and
    `stream.integer(below)` alone: then a sample looks the same on any number of ranks and after a resume.
    """

    implementation: ClassVar[str] = "megabatch.data.augment.custom:custom"
    name: Literal["custom"] = "custom"
    function: ImportPath
    options: Options = {}


Transform = Annotated[
    RandomResizedCrop
    | RandomCrop
    | HorizontalFlip
    | Resize
    | CenterCrop
    | VerticalFlip
    | RandomRotation
    | RandomAffine
    | ColorJitter
    | Grayscale
    | GaussianBlur
    | RandAugment
    | TrivialAugment
    | AutoAugment
    | RandomErasing
    | CustomTransform,
    Field(discriminator="name"),
    BeforeValidator(name_only),
]


def never_square(transforms: Sequence[Choice], image_size: int) -> str | None:
    """Return why no image comes out with image_size x image_size pixels, or None where that depends on the images."""
    shorter: int | None = None  # the side that the transforms leave, as soon as one of them decides it
    for transform in transforms:
        if isinstance(transform, Resize):
            shorter = transform.size
        elif isinstance(transform, RandomCrop | CenterCrop):
            padding = transform.padding if isinstance(transform, RandomCrop) else 0
            if shorter is not None and shorter + 2 * padding < image_size:
                return f"{transform.name} gets {shorter + 2 * padding} pixels a side"
            shorter = image_size
        elif isinstance(transform, RandomResizedCrop):
            shorter = image_size
        elif isinstance(transform, CustomTransform):
            shorter = None
    return None if shorter in (None, image_size) else f"the last resize leaves {shorter} pixels a side"
