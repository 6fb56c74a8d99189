"""What of a network is removed: single weights, which become zeros that stay, or whole channels, which are gone.

The arithmetic is in trainer/pruning; here are its settings.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from megabatch.configs.base import Choice, PositiveInt, name_only
from megabatch.configs.schedules import Length

Share = Annotated[float, Field(gt=0, lt=1)]
Scope = Literal["global", "layer"]
PlanHash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class OneShot(Choice):
    """All at once, before the first step."""

    name: Literal["one_shot"] = "one_shot"


class Cubic(Choice):
    """From none at `begin` to all at `end`, every `every_steps` steps a little more (Zhu and Gupta 2017, equation 1).

    After t steps the sparsity is `s * (1 - (1 - (t - begin) / (end - begin)) ** 3)`: fast at first, when many weights
    can be spared, and ever slower.
    """

    name: Literal["cubic"] = "cubic"
    begin: Length = 0.0
    end: Length
    every_steps: PositiveInt = 100


PruningSchedule = Annotated[OneShot | Cubic, Field(discriminator="name"), BeforeValidator(name_only)]


class Magnitude(Choice):
    """The smallest weights become zeros and stay so: a share `sparsity` of those of all layers, or of each layer.

    Weights are those of convolutions and linear layers that are trained. `keep` has patterns of names of layers
    (`fc`, `stages.0.*`) that stay as they are.
    """

    name: Literal["magnitude"] = "magnitude"
    sparsity: Share
    scope: Scope = "global"
    schedule: PruningSchedule = OneShot()
    keep: tuple[str, ...] = ()


class NOfM(Choice):
    """Of every `m` weights that lie side by side along the inputs of a layer, the `n` largest stay (2:4 and the like).

    All at once, before the first step. `keep` has patterns of names of layers that stay as they are.
    """

    name: Literal["n_of_m"] = "n_of_m"
    n: PositiveInt = 2
    m: PositiveInt = 4
    keep: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _leaves_some_and_removes_some(self) -> Self:
        if self.n >= self.m:
            raise ValueError(f"n: {self.n} of m: {self.m} removes nothing: n has to be below m")
        return self


class Channels(Choice):
    """Whole channels are removed, until the network has at most the share `flops` of its operations.

    Which ones, is decided once, from the weights of `model.pretrained`. `scope: layer` takes the same share of every
    group of layers that must lose the same channels, `global` compares the groups. A group keeps a `multiple_of`
    channels, and those are fast. `keep` has patterns of names of layers whose outputs all stay. The launcher writes
    `sha256`, that of RUN_DIR/pruning-plan.json.
    """

    name: Literal["channels"] = "channels"
    flops: Share = 0.5
    scope: Scope = "layer"
    multiple_of: PositiveInt = 8
    keep: tuple[str, ...] = ()
    sha256: PlanHash | None = None


class Inherited(Choice):
    """As the run in `model.pretrained` is pruned: the same small network, or the same weights zero. Nothing more goes.

    The launcher writes `sha256`, that of the plan of removed channels if there is one.
    """

    name: Literal["inherited"] = "inherited"
    sha256: PlanHash | None = None


Pruning = Annotated[Magnitude | NOfM | Channels | Inherited, Field(discriminator="name"), BeforeValidator(name_only)]


def plan_hash(pruning: Magnitude | NOfM | Channels | Inherited | None) -> str | None:
    """Return the SHA-256 of the plan of removed channels, None where there is none (yet)."""
    return pruning.sha256 if isinstance(pruning, Channels | Inherited) else None


def masked(pruning: Magnitude | NOfM | Channels | Inherited | None) -> Magnitude | NOfM | Inherited | None:
    """Return the settings of single weights that are zero; None where there are none.

    Of inherited ones the launcher must have looked at the source: with a plan, it is channels that are gone.
    """
    if isinstance(pruning, Channels) or plan_hash(pruning) is not None:
        return None
    return pruning
