"""Which parameters get settings of their own, chosen by patterns of their names."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from megabatch.configs.base import Frozen, NonNegativeFloat, PositiveFloat
from megabatch.configs.schedules import Length, split_length


class GroupRule(Frozen):
    """What holds for the parameters whose name `match` fits: `*` any text, dots too; `?` any letter; `[ab]` a or b.

    A weight decay given here holds for all of them, biases and normalizations too. `frozen` parameters are not trained,
    those with `frozen_until` not before that length is over: a number of epochs, or text such as "500 steps". The
    running statistics of batch norms among them still follow the data.
    """

    match: Annotated[str, Field(min_length=1)]
    learning_rate_factor: PositiveFloat = 1.0
    weight_decay: NonNegativeFloat | None = None
    frozen: bool = False
    frozen_until: Length | None = None

    @model_validator(mode="after")
    def _frozen_is_all(self) -> Self:
        others = self.learning_rate_factor != 1.0 or self.weight_decay is not None
        if self.frozen and others:
            raise ValueError("frozen parameters have no learning rate and no weight decay: leave the other keys out")
        if self.frozen and self.frozen_until is not None:
            raise ValueError("frozen: true is for good, frozen_until for a while: leave one of them out")
        if self.frozen_until is not None and not split_length(self.frozen_until)[0]:
            raise ValueError("frozen_until: 0 freezes nothing: leave it out")
        return self
