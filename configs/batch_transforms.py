"""The transforms a recipe can list for whole micro-batches, on the device. The work is in trainer/batch_augment."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from megabatch.configs.base import Choice, Fraction, PositiveFloat, name_only
from megabatch.configs.transforms import AreaAndShape


class Mixup(Choice):
    """Each image and its label mixed with the one before it in the micro-batch (Zhang et al. 2018).

    The share lam of the image itself is drawn from Beta(alpha, alpha), once for a micro-batch.
    """

    implementation: ClassVar[str] = "megabatch.trainer.batch_augment.mix:mixup"
    name: Literal["mixup"] = "mixup"
    alpha: PositiveFloat = 0.2
    probability: Fraction = 1.0


class Cutmix(Choice):
    """A rectangle of each image replaced by that of the one before it in the micro-batch (Yun et al. 2019).

    The rectangle has the area 1 - lam, lam drawn from Beta(alpha, alpha); labels mix by the area really replaced.
    """

    implementation: ClassVar[str] = "megabatch.trainer.batch_augment.mix:cutmix"
    name: Literal["cutmix"] = "cutmix"
    alpha: PositiveFloat = 1.0
    probability: Fraction = 1.0


class MixupOrCutmix(Choice):
    """Cutmix with the probability `switch_probability`, mixup otherwise, drawn for each micro-batch (as in timm)."""

    implementation: ClassVar[str] = "megabatch.trainer.batch_augment.mix:mixup_or_cutmix"
    name: Literal["mixup_or_cutmix"] = "mixup_or_cutmix"
    mixup_alpha: PositiveFloat = 0.8
    cutmix_alpha: PositiveFloat = 1.0
    switch_probability: Fraction = 0.5
    probability: Fraction = 1.0


class BatchRandomErasing(AreaAndShape):
    """A random rectangle of an image set to 0, which after `fixed` is the mean colour of the data set (as in timm)."""

    implementation: ClassVar[str] = "megabatch.trainer.batch_augment.erasing:random_erasing"
    name: Literal["random_erasing"] = "random_erasing"
    probability: Fraction = 0.25
    scale: tuple[PositiveFloat, PositiveFloat] = (0.02, 0.33)
    ratio: tuple[PositiveFloat, PositiveFloat] = (0.3, 3.3)


BatchTransform = Annotated[
    Mixup | Cutmix | MixupOrCutmix | BatchRandomErasing,
    Field(discriminator="name"),
    BeforeValidator(name_only),
]
