"""The image transforms a recipe can list, for training and for evaluation. The pixel work is in data/augment."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from megabatch.configs.base import Choice, Fraction, NonNegativeInt, PositiveFloat, PositiveInt, name_only


class RandomResizedCrop(Choice):
    """A random part of the image, of random area and shape, resized to image_size (Szegedy et al. 2015, section 6)."""

    implementation: ClassVar[str] = "megabatch.data.augment.geometry:random_resized_crop"
    name: Literal["random_resized_crop"] = "random_resized_crop"
    scale: tuple[PositiveFloat, PositiveFloat] = (0.08, 1.0)
    ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        if self.scale[0] > self.scale[1] or self.scale[1] > 1:
            raise ValueError(f"scale is {list(self.scale)}: write [smallest, largest], at most 1")
        if self.ratio[0] > self.ratio[1]:
            raise ValueError(f"ratio is {list(self.ratio)}: write [smallest, largest]")
        return self


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


Transform = Annotated[
    RandomResizedCrop | RandomCrop | HorizontalFlip | Resize | CenterCrop,
    Field(discriminator="name"),
    BeforeValidator(name_only),
]
