"""The optimizers a recipe can name. The update rules live in trainer/optim; here are their settings.

To add one: a class here, its name in `Optimizer`, and the function that `implementation` points to.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from megabatch.configs.base import Choice, NonNegativeFloat, Options, PositiveFloat, PositiveInt, name_only
from megabatch.configs.parameter_groups import GroupRule

Scaling = Literal["none", "linear", "sqrt"]
Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerBase(Choice):
    """What all optimizers share: the learning rate, how it follows the batch, weight decay, and groups of parameters.

    The peak learning rate is `base_learning_rate * (global_batch / base_batch) ** p` with p = 0, 1 or 1/2 for
    scaling none, linear (Goyal et al. 2017, section 2.1) or sqrt (Krizhevsky 2014, section 5).

    The first of `groups` that fits a parameter's name holds for it. `layer_decay` multiplies the learning rate of a
    layer by `layer_decay ** (layers above it)`.
    """

    base_learning_rate: PositiveFloat
    base_batch: PositiveInt = 256
    scaling: Scaling = "linear"
    weight_decay: NonNegativeFloat = 0.0
    decay_bias_and_norm: bool = False
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    groups: tuple[GroupRule, ...] = ()

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


class Adagrad(OptimizerBase):
    """Adagrad (Duchi, Hazan and Singer 2011): divided by the root of the sum of squares; decay in the gradient."""

    implementation: ClassVar[str] = "megabatch.trainer.optim.standard:adagrad"
    name: Literal["adagrad"] = "adagrad"
    initial_accumulator: NonNegativeFloat = 0.0
    epsilon: PositiveFloat = 1e-10


class RmsProp(OptimizerBase):
    """RMSProp (Tieleman and Hinton 2012, lecture 6.5): divided by a running mean of squares; decay in the gradient.

    `smoothing` is what the running mean keeps of itself; `centered` divides by an estimate of the variance, as in
    Graves 2013.
    """

    implementation: ClassVar[str] = "megabatch.trainer.optim.standard:rmsprop"
    name: Literal["rmsprop"] = "rmsprop"
    smoothing: Beta = 0.99
    momentum: Beta = 0.0
    centered: bool = False
    epsilon: PositiveFloat = 1e-8


class AdamBase(OptimizerBase):
    """The moments of Adam."""

    beta1: Beta = 0.9
    beta2: Beta = 0.999
    epsilon: PositiveFloat = 1e-8


class Adam(AdamBase):
    """Adam (Kingma and Ba 2015, algorithm 1); weight decay is added to the gradient. `amsgrad`: Reddi et al. 2018."""

    implementation: ClassVar[str] = "megabatch.trainer.optim.standard:adam"
    name: Literal["adam"] = "adam"
    amsgrad: bool = False


class AdamW(AdamBase):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2)."""

    implementation: ClassVar[str] = "megabatch.trainer.optim.standard:adamw"
    name: Literal["adamw"] = "adamw"


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


class LibraryOptimizer(OptimizerBase):
    """An optimizer of another library, by its name there. `options` are further arguments of its constructor."""

    implementation: ClassVar[str] = "megabatch.trainer.optim.library:library_optimizer"
    name: str
    options: Options = {}  # the keyword arguments of somebody else's optimizer


class TorchOptimizer(LibraryOptimizer):
    """A class of torch.optim, as in `torch/RAdam`. `options` are further arguments of its constructor."""

    name: Annotated[str, Field(pattern=r"^torch/\w+$")] = "torch/NAME"


class TimmOptimizer(LibraryOptimizer):
    """One of timm.optim.list_optimizers(), as in `timm/lion`. `options` are further arguments of its constructor."""

    name: Annotated[str, Field(pattern=r"^timm/\w+$")] = "timm/NAME"


def _kind(value: Any) -> str | None:  # Any: whatever stands in the YAML file, or an object of the schema
    """Return the alternative that a mapping's name stands for: `torch/NAME` for all that begin with `torch/`."""
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    library, slash, _ = str(name).partition("/")
    return f"{library}/NAME" if slash and library in ("torch", "timm") else name


Optimizer = Annotated[
    Annotated[Sgd, Tag("sgd")]
    | Annotated[Adagrad, Tag("adagrad")]
    | Annotated[RmsProp, Tag("rmsprop")]
    | Annotated[Adam, Tag("adam")]
    | Annotated[AdamW, Tag("adamw")]
    | Annotated[Lars, Tag("lars")]
    | Annotated[Lamb, Tag("lamb")]
    | Annotated[TorchOptimizer, Tag("torch/NAME")]
    | Annotated[TimmOptimizer, Tag("timm/NAME")],
    Discriminator(_kind),
    BeforeValidator(name_only),
]
