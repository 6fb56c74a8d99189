"""Which samples a recipe trains on and how often: several sources, parts of a split, weights. See docs/order.md."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from megabatch.configs.base import (
    Choice,
    EnvironmentText,
    Fraction,
    Frozen,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    name_only,
)


class Source(Frozen):
    """One of several data sets. With weights, the draws come from them in exactly these proportions.

    `classes` takes of all splits of this source the samples of some classes alone. `train_samples` keeps at most so
    many training samples, the same number of each class and always the same ones (data/replay.py); a source with
    `train_samples: 0` is evaluated on and has no weight.
    """

    path: EnvironmentText
    weight: PositiveFloat | None = None
    classes: tuple[str, ...] = ()
    train_samples: NonNegativeInt | None = None

    @property
    def trains(self) -> bool:
        """Return whether samples of this source are trained on."""
        return self.train_samples != 0

    @model_validator(mode="after")
    def _has_a_weight_for_something(self) -> Self:
        if self.weight is not None and not self.trains:
            raise ValueError("train_samples: 0 is drawn from never: leave out its weight")
        return self


class HashSplit(Frozen):
    """Train, validation and test made out of one split, by a hash of each sample's key and nothing else.

    So a sample never changes side when data are added, the seed changes or the share of train becomes smaller. Shares
    that add up to less than 1 leave samples out.
    """

    of: str = "train"
    train: Fraction
    validation: Fraction = 0.0
    test: Fraction = 0.0

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        total = sum(Decimal(repr(share)) for share in (self.train, self.validation, self.test))
        if total > 1:
            raise ValueError(f"the shares add up to {total}: write shares that add up to 1 at most")
        return self


class Uniform(Choice):
    """Every sample exactly once an epoch."""

    name: Literal["uniform"] = "uniform"


class ClassBalanced(Choice):
    """Every class that has samples equally often; an epoch has as many draws as there are samples."""

    name: Literal["class_balanced"] = "class_balanced"


class Weighted(Choice):
    """Every sample as often as its weight says. `file` is JSON: `{"classes": {NAME: 2.5}}` or `{"samples": {KEY: 1}}`.

    A weight under `classes` is that of each sample of the class.
    """

    name: Literal["weighted"] = "weighted"
    file: EnvironmentText


Sampling = Annotated[Uniform | ClassBalanced | Weighted, Field(discriminator="name"), BeforeValidator(name_only)]


class TrainStream(Frozen):
    """Training samples from shards without an index, read front to back: files (also compressed) and `pipe:COMMAND`.

    Their order is approximate and a resumed run goes on with other samples, unlike everything else here. `samples` is
    the length of an epoch; each rank needs a shard of its own. Classes and the other splits come from `path`.
    """

    urls: EnvironmentText
    samples: PositiveInt
    allow_pipe: bool = False
    shuffle_buffer: PositiveInt = 1000
