"""Averages of the weights over training, which are what is evaluated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from megabatch.configs.base import Choice, PositiveInt, name_only
from megabatch.configs.schedules import Length


class Ema(Choice):
    """Exponential moving average: `average = d * average + (1 - d) * weights` after every step.

    d is `decay`, or less at the start: `min(decay, (1 + n) / (10 + n))` after n updates. With `base_batch` the decay is
    meant for steps of that many samples, and is `decay ** (global_batch / base_batch)` (Busbridge et al. 2023).
    """

    name: Literal["ema"] = "ema"
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    base_batch: PositiveInt | None = None


class Swa(Choice):
    """Stochastic weight averaging: the plain mean of the weights after every `every`, from `start` on (Izmailov 2018).

    Until `start` the network itself is evaluated. Batch-norm statistics are averaged like the weights.
    """

    name: Literal["swa"] = "swa"
    start: Length
    every: Length = 1.0


Averaging = Annotated[Ema | Swa, Field(discriminator="name"), BeforeValidator(name_only)]
