"""The optimizers a recipe can name. The update rules live in trainer/optim; here are their settings.

To add one: a class here, its name in `Optimizer`, and the function that `implementation` points to.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from megabatch.configs.base import Choice, NonNegativeFloat, PositiveFloat, PositiveInt, name_only

Scaling = Literal["none", "linear", "sqrt"]
Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerBase(Choice):
    """What all optimizers share: the learning rate, how it follows the batch, and weight decay.

    The peak learning rate is `base_learning_rate * (global_batch / base_batch) ** p` with p = 0, 1 or 1/2 for
    scaling none, linear (Goyal et al. 2017, section 2.1) or sqrt (Krizhevsky 2014, section 5).
    """

    base_learning_rate: PositiveFloat
    base_batch: PositiveInt = 256
    scaling: Scaling = "linear"
    weight_decay: NonNegativeFloat = 0.0
    decay_bias_and_norm: bool = False

    def peak_learning_rate(self, global_batch: int) -> float:
        """Return the learning rate at the end of warmup for steps of `global_batch` samples."""
        power = {"none": 0.0, "linear": 1.0, "sqrt": 0.5}[self.scaling]
        return float(self.base_learning_rate * (global_batch / self.base_batch) ** power)


class MomentumBase(OptimizerBase):
    """Momentum, of Nesterov's kind or plain."""

    momentum: Beta = 0.9
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: true needs a momentum above 0")
        return self


class Sgd(MomentumBase):
    """Stochastic gradient descent; weight decay is added to the gradient."""

    implementation: ClassVar[str] = "megabatch.trainer.optim.standard:sgd"
    name: Literal["sgd"] = "sgd"


class AdamW(OptimizerBase):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2)."""

    implementation: ClassVar[str] = "megabatch.trainer.optim.standard:adamw"
    name: Literal["adamw"] = "adamw"
    beta1: Beta = 0.9
    beta2: Beta = 0.999
    epsilon: PositiveFloat = 1e-8


class Lars(MomentumBase):
    """Layer-wise adaptive rate scaling (You, Gitman and Ginsburg 2017, algorithm 1).

    `denominator` names the published variant of the trust ratio: `separate` is the paper's ||g|| + wd * ||w||,
    `joint` is ||g + wd * w|| as in optax.
    """

    implementation: ClassVar[str] = "megabatch.trainer.optim.lars:lars"
    name: Literal["lars"] = "lars"
    trust_coefficient: PositiveFloat = 0.001
    epsilon: NonNegativeFloat = 0.0
    denominator: Literal["separate", "joint"] = "separate"
    adapt_bias_and_norm: bool = False


class Lamb(OptimizerBase):
    """Layer-wise adaptive moments (You et al. 2020, algorithm 2, phi the identity)."""

    implementation: ClassVar[str] = "megabatch.trainer.optim.lamb:lamb"
    name: Literal["lamb"] = "lamb"
    beta1: Beta = 0.9
    beta2: Beta = 0.999
    epsilon: PositiveFloat = 1e-6
    bias_correction: bool = True
    adapt_bias_and_norm: bool = False


Optimizer = Annotated[Sgd | AdamW | Lars | Lamb, Field(discriminator="name"), BeforeValidator(name_only)]
