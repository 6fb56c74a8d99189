"""Which parameters get settings of their own, chosen by patterns of their names."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from megabatch.configs.base import Frozen, NonNegativeFloat, PositiveFloat


class GroupRule(Frozen):
    """What holds for the parameters whose name `match` fits: `*` any text, dots too; `?` any letter; `[ab]` a or b.

    A weight decay given here holds for all of them, biases and normalizations too. `frozen` parameters are not trained;
    the running statistics of batch norms among them still follow the data.
    """

    match: Annotated[str, Field(min_length=1)]
    learning_rate_factor: PositiveFloat = 1.0
    weight_decay: NonNegativeFloat | None = None
    frozen: bool = False

    @model_validator(mode="after")
    def _frozen_is_all(self) -> Self:
        others = self.learning_rate_factor != 1.0 or self.weight_decay is not None
        if self.frozen and others:
            raise ValueError("frozen parameters have no learning rate and no weight decay: leave the other keys out")
        return self
