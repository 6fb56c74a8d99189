"""What keeps a network from fitting too closely or from diverging."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from megabatch.configs.base import (
    Frozen,
    PositiveFloat,
)

Rate = Annotated[float, Field(ge=0, lt=1)]


class Regularization(Frozen):
    """What keeps the network from fitting too closely, beside weight decay (which belongs to the optimizer).

    `dropout` and `stochastic_depth` are rates: timm's models take them as `drop_rate` and `drop_path_rate`, in others
    the dropout modules and torchvision's StochasticDepth modules are set.
    """

    label_smoothing: Rate = 0.0
    clip_norm: PositiveFloat | None = None
    dropout: Rate | None = None
    stochastic_depth: Rate | None = None
