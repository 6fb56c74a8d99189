"""The network of a recipe: where it comes from and what is changed in it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from megabatch.configs.base import Choice, Frozen, NonNegativeFloat, Options, PositiveInt, name_only
from megabatch.configs.initialization import Default, Initialization
from megabatch.configs.norms import BatchNorm, FrozenNorm, PreciseStatistics
from megabatch.configs.pretrained import StartingWeights
from megabatch.configs.trained_part import TrainAll, TrainedPart, TrainHead

# Options of timm.create_model that say where weights come from, and nothing about the network.
_WEIGHTS_OPTIONS = {"checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}
ModelName = Annotated[str, Field(pattern=r"^(timm/[\w.\-]+|torchvision/\w+|[\w.]+:\w+)$")]


class Sigmoid(Choice):
    """`1 / (1 + exp(-x))`."""

    name: Literal["sigmoid"] = "sigmoid"


class Tanh(Choice):
    """Hyperbolic tangent."""

    name: Literal["tanh"] = "tanh"


class Relu(Choice):
    """`max(x, 0)`."""

    name: Literal["relu"] = "relu"


class LeakyRelu(Choice):
    """`x` above 0, `slope * x` below (Maas et al. 2013)."""

    name: Literal["leaky_relu"] = "leaky_relu"
    slope: NonNegativeFloat = 0.01


class Gelu(Choice):
    """`x * Phi(x)` (Hendrycks and Gimpel 2016)."""

    name: Literal["gelu"] = "gelu"


class Silu(Choice):
    """`x * sigmoid(x)` (Elfwing et al. 2018)."""

    name: Literal["silu"] = "silu"


Activation = Annotated[
    Sigmoid | Tanh | Relu | LeakyRelu | Gelu | Silu, Field(discriminator="name"), BeforeValidator(name_only)
]


class GroupNorm(Choice):
    """Group norm in place of every batch norm (Wu and He 2018): no statistics of other samples, so any batch will do.

    A layer whose channels `groups` does not divide gets the next smaller number of groups that does.
    """

    name: Literal["group_norm"] = "group_norm"
    groups: PositiveInt = 32


class LayerNorm(Choice):
    """Layer norm over channels and pixels in place of every batch norm: group norm with one group (Ba et al. 2016)."""

    name: Literal["layer_norm"] = "layer_norm"


ReplaceBatchNorm = Annotated[GroupNorm | LayerNorm, Field(discriminator="name"), BeforeValidator(name_only)]


class Compile(Frozen):
    """`torch.compile` of the network that is trained; evaluation and checkpoints use the network itself."""

    backend: str = "inductor"
    mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"

    @model_validator(mode="after")
    def _only_inductor_has_modes(self) -> Self:
        if self.mode != "default" and self.backend != "inductor":
            raise ValueError(f"mode is for backend: inductor, not {self.backend}: leave one of them out")
        return self


class Model(Frozen):
    """`timm/NAME`, `torchvision/NAME`, or `package.module:callable`, called with num_classes and the options.

    What follows changes any of them: `activation` and `replace_batch_norm` replace modules, `initialization` draws the
    weights anew, `zero_init_residual` starts every residual block as the identity, `pretrained` begins with the weights
    of another training, and with `train: head` nothing but the head is trained from there. `batch_norm` says whose
    statistics the batch norms normalize with, `precise_statistics` which ones an evaluation uses.
    `checkpoint_activations` has patterns of module names (`layer?.*`) whose insides are computed again in the backward
    pass instead of kept.
    """

    name: ModelName
    options: Options = {}  # the keyword arguments of somebody else's model
    activation: Activation | None = None
    replace_batch_norm: ReplaceBatchNorm | None = None
    batch_norm: BatchNorm | None = None
    precise_statistics: PreciseStatistics | None = None
    initialization: Initialization = Default()
    zero_init_residual: bool = False
    pretrained: StartingWeights | None = None
    train: TrainedPart = TrainAll()
    channels_last: bool = False
    compile: Compile | None = None
    checkpoint_activations: tuple[str, ...] = ()

    def without_weights(self) -> Model:
        """Return the network without options that say where timm takes weights from."""
        if not self.name.startswith("timm/"):
            return self
        options = {name: value for name, value in self.options.items() if name not in _WEIGHTS_OPTIONS}
        return self.model_copy(update={"options": options})

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> Self:
        library, _, _ = self.name.partition("/")
        of_library = {"timm": ("pretrained", "checkpoint_path"), "torchvision": ("weights",)}.get(library, ())
        named = [option for option in of_library if option in self.options]
        if named and (self.pretrained is not None or named[0] != "checkpoint_path"):
            raise ValueError(
                f"options.{named[0]} loads weights unchecked: leave it out and write model.pretrained alone"
            )
        if self.pretrained is not None and self.pretrained.source == "timm" and library != "timm":
            raise ValueError(f"pretrained: timm is for models of timm, not {self.name}: write timm:NAME or a file")
        return self

    @model_validator(mode="after")
    def _a_head_on_trained_features(self) -> Self:
        if not isinstance(self.train, TrainHead):
            return self
        if self.pretrained is None and "checkpoint_path" not in self.options:
            raise ValueError("train: head needs a network that is trained already: write pretrained")
        if not isinstance(self.batch_norm, FrozenNorm | None) or self.precise_statistics is not None:
            raise ValueError(
                "train: head keeps the statistics of batch norms: leave batch_norm and precise_statistics out"
            )
        return self

    @model_validator(mode="after")
    def _norms_that_are_there(self) -> Self:
        for key in ("batch_norm", "precise_statistics"):
            if self.replace_batch_norm is not None and getattr(self, key) is not None:
                raise ValueError(f"replace_batch_norm leaves no batch norm for {key}: leave one of them out")
        if isinstance(self.batch_norm, FrozenNorm) and self.precise_statistics is not None:
            raise ValueError(
                "batch_norm: frozen keeps the statistics that precise_statistics would replace: choose one"
            )
        return self
