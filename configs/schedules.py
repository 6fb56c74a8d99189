"""The learning-rate schedules a recipe can name, each with its formula. Pure functions of epochs seen; no state.

`factor(epochs_seen, epochs)` is multiplied with the peak learning rate. Epochs seen is samples seen divided by the
samples of an epoch, so nothing here depends on steps, ranks or accumulation.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from typing_extensions import override

from megabatch.configs.base import Choice, Fraction, NonNegativeFloat, PositiveFloat, name_only


class ScheduleBase(Choice):
    """Warmup: from `start_factor` to 1 along a line over `warmup_epochs` (Goyal et al. 2017, section 2.2)."""

    warmup_epochs: NonNegativeFloat = 0.0
    start_factor: Fraction = 0.01

    def factor(self, epochs_seen: float, epochs: float) -> float:
        """Return the fraction of the peak learning rate once `epochs_seen` of `epochs` have been seen."""
        if epochs_seen < self.warmup_epochs:
            return self.start_factor + (1.0 - self.start_factor) * epochs_seen / self.warmup_epochs
        return self.decay(epochs_seen, epochs)

    def decay(self, epochs_seen: float, epochs: float) -> float:
        """Return the factor after warmup: 1 here, less in the schedules that decay."""
        return 1.0

    def _decay_progress(self, epochs_seen: float, epochs: float) -> float:
        """Return how much of the time after warmup is over, 0 to 1."""
        return min(1.0, (epochs_seen - self.warmup_epochs) / max(epochs - self.warmup_epochs, 1e-12))


class Constant(ScheduleBase):
    """The peak learning rate after warmup, to the end."""

    name: Literal["constant"] = "constant"


class Cosine(ScheduleBase):
    """`end + (1 - end) * (1 + cos(pi * t)) / 2` (Loshchilov and Hutter 2017, equation 5, without restarts)."""

    name: Literal["cosine"] = "cosine"
    end_factor: Fraction = 0.0

    @override
    def decay(self, epochs_seen: float, epochs: float) -> float:
        progress = self._decay_progress(epochs_seen, epochs)
        return self.end_factor + (1.0 - self.end_factor) * 0.5 * (1.0 + math.cos(math.pi * progress))


class Linear(ScheduleBase):
    """`1 - (1 - end) * t`: a line from the peak to `end_factor`."""

    name: Literal["linear"] = "linear"
    end_factor: Fraction = 0.0

    @override
    def decay(self, epochs_seen: float, epochs: float) -> float:
        return 1.0 - (1.0 - self.end_factor) * self._decay_progress(epochs_seen, epochs)


class Step(ScheduleBase):
    """`gamma ** floor(epochs_seen / every_epochs)`, counted from the start of training as in Goyal et al. 2017."""

    name: Literal["step"] = "step"
    every_epochs: PositiveFloat
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1

    @override
    def decay(self, epochs_seen: float, epochs: float) -> float:
        return float(self.gamma ** math.floor(epochs_seen / self.every_epochs))


Schedule = Annotated[Constant | Cosine | Linear | Step, Field(discriminator="name"), BeforeValidator(name_only)]
