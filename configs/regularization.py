"""What keeps a network from fitting too closely or from diverging."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from megabatch.configs.base import (
    Frozen,
    NonNegativeFloat,
    PositiveFloat,
)
from megabatch.configs.continual import ElasticWeights

Rate = Annotated[float, Field(ge=0, lt=1)]


class Regularization(Frozen):
    """What keeps the network from fitting too closely, beside weight decay (which belongs to the optimizer).

    `dropout` and `stochastic_depth` are rates: timm's models take them as `drop_rate` and `drop_path_rate`, in others
    the dropout modules and torchvision's StochasticDepth modules are set.

    `l1` and `l2` are penalties in the loss, `l1 * sum |w| + l2 / 2 * sum w**2` over what weight decay applies to; their
    gradient is added once a step. The loss that is shown is without them. Of the three ways to clip at most one:
    `clip_norm` (norm of the whole gradient), `clip_value` (each element), `clip_adaptive` (the norm of each row,
    relative to that of its weights). `ewc` keeps weights near those of an earlier training; a recipe with stages sets
    it (docs/continual.md).
    """

    label_smoothing: Rate = 0.0
    l1: NonNegativeFloat = 0.0
    l2: NonNegativeFloat = 0.0
    clip_norm: PositiveFloat | None = None
    clip_value: PositiveFloat | None = None
    clip_adaptive: PositiveFloat | None = None
    dropout: Rate | None = None
    stochastic_depth: Rate | None = None
    ewc: ElasticWeights | None = None

    @model_validator(mode="after")
    def _one_way_to_clip(self) -> Self:
        ways = [name for name in ("clip_norm", "clip_value", "clip_adaptive") if getattr(self, name) is not None]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)}: clip in one way (`clip_norm: null` undoes that of a base recipe)")
        return self

    @property
    def clips(self) -> bool:
        """Return whether gradients are clipped."""
        return any(value is not None for value in (self.clip_norm, self.clip_value, self.clip_adaptive))
