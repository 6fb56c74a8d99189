"""What keeps a network from fitting too closely or from diverging."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from megabatch.configs.base import (
    Frozen,
    PositiveFloat,
)


class Regularization(Frozen):
    """What keeps the network from fitting too closely, beside weight decay (which belongs to the optimizer)."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_norm: PositiveFloat | None = None
