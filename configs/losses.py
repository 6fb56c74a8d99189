"""The losses a recipe can name. Labels are classes, or distributions over the classes as mixup and cutmix make them.

Other targets (configs/targets.py) are rows as wide as the outputs; launcher/refusals/targets.py says what fits which.

Each is smoothed by `regularization.label_smoothing`, except for a loss of the user's own.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from megabatch.configs.base import Choice, Fraction, ImportPath, NonNegativeFloat, Options, PositiveFloat, name_only


class CrossEntropy(Choice):
    """`-sum_k w_k q_k log softmax(z)_k`, q the target.

    `class_weights` has a weight w_k for each class, or is `balanced`: samples / (classes * samples of the class). The
    mean is over the samples, not over the sum of their weights as in torch, so that a sample counts the same in
    whatever batch it comes.
    """

    implementation: ClassVar[str] = "megabatch.trainer.losses:cross_entropy"
    name: Literal["cross_entropy"] = "cross_entropy"
    class_weights: tuple[NonNegativeFloat, ...] | Literal["balanced"] | None = None


class BinaryCrossEntropy(Choice):
    """One classifier for each class: `mean_k of -(q_k log s(z_k) + (1 - q_k) log(1 - s(z_k)))`, s the sigmoid.

    The loss of "ResNet strikes back" (Wightman et al. 2021), as timm has it. With `target_threshold` every class whose
    share in a mixed target is above it counts wholly; `sum_classes` adds up instead of taking the mean.
    """

    implementation: ClassVar[str] = "megabatch.trainer.losses:binary_cross_entropy"
    name: Literal["binary_cross_entropy"] = "binary_cross_entropy"
    target_threshold: Fraction | None = None
    sum_classes: bool = False


class Focal(Choice):
    """`sum_k of alpha_k (1 - p_k) ** gamma * -log(p_k)`, p_k the probability of the right answer for class k.

    Lin et al. 2017, equation 5, one sigmoid for each class: easy classes count little. `alpha` is for the class of the
    sample, 1 - alpha for the others; null leaves it out.
    """

    implementation: ClassVar[str] = "megabatch.trainer.losses:focal"
    name: Literal["focal"] = "focal"
    gamma: NonNegativeFloat = 2.0
    alpha: Fraction | None = 0.25


class MeanSquaredError(Choice):
    """`mean_k of (z_k - q_k)**2`: outputs against targets, without softmax (Hui and Belkin 2020)."""

    implementation: ClassVar[str] = "megabatch.trainer.losses:mean_squared_error"
    name: Literal["mean_squared_error"] = "mean_squared_error"


class Huber(Choice):
    """`mean_k of` the square of the error up to `delta`, a line beyond it (Huber 1964)."""

    implementation: ClassVar[str] = "megabatch.trainer.losses:huber"
    name: Literal["huber"] = "huber"
    delta: PositiveFloat = 1.0


class MeanAbsoluteError(Choice):
    """`mean_k of |z_k - q_k|`: far errors count less than in the square (Laplace)."""

    implementation: ClassVar[str] = "megabatch.trainer.losses:mean_absolute_error"
    name: Literal["mean_absolute_error"] = "mean_absolute_error"


class Custom(Choice):
    """A loss of your own: `function` is package.module:callable, called with (outputs_NK, targets) and the options.

    Targets are int64 labels_N, or with mixup and cutmix distributions_NK, or float32 rows_NK where `data.target` is
    labels or numbers. It returns losses_N, one for each sample.
    """

    implementation: ClassVar[str] = "megabatch.trainer.losses:custom"
    name: Literal["custom"] = "custom"
    function: ImportPath
    options: Options = {}  # the keyword arguments of somebody else's function


Loss = Annotated[
    CrossEntropy | BinaryCrossEntropy | Focal | MeanSquaredError | Huber | MeanAbsoluteError | Custom,
    Field(discriminator="name"),
    BeforeValidator(name_only),
]
