"""How many samples a step takes, in which portions, and how that grows over a training."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from megabatch.configs.base import Frozen, PositiveFloat, PositiveInt


class RampStart(Frozen):
    """From here on a step takes `global_batch` samples: after `epochs` epochs, or after `samples` samples.

    A start inside an epoch counts from the first step that begins there or later.
    """

    epoch: PositiveFloat | None = None
    samples: PositiveInt | None = None
    global_batch: PositiveInt

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if (self.epoch is None) == (self.samples is None):
            raise ValueError("write either epoch or samples: where the batch changes")
        return self

    def in_samples(self, samples_per_epoch: int) -> int:
        """Return the start as a number of samples seen."""
        if self.samples is not None:
            return self.samples
        assert self.epoch is not None
        return round(self.epoch * samples_per_epoch)


class Batch(Frozen):
    """One optimizer step takes `global_batch` samples, in forward/backward passes of `micro_batch` samples.

    `ramp` changes the global batch on the way. With `ramp_learning_rate: follow` the peak learning rate is that of the
    batch of the moment (the optimizer's `scaling`); with `constant` it stays (Smith et al. 2018).
    """

    global_batch: PositiveInt
    micro_batch: PositiveInt
    last_batch: Literal["short", "drop"] = "short"
    ramp: Annotated[tuple[RampStart, ...], Field(strict=False)] = ()
    ramp_learning_rate: Literal["follow", "constant"] = "follow"

    @model_validator(mode="after")
    def _ramp_fits(self) -> Self:
        if self.ramp and self.last_batch == "drop":
            raise ValueError("a ramp needs last_batch: short, so that all epochs have the same samples")
        if not self.ramp and self.ramp_learning_rate == "constant":
            raise ValueError("ramp_learning_rate: constant has no meaning without a ramp")
        return self

    @property
    def smallest(self) -> int:
        """Return the smallest global batch of the training."""
        return min([self.global_batch, *(start.global_batch for start in self.ramp)])
