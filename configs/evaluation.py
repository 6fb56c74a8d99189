"""When a run is evaluated and what is kept of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from megabatch.configs.base import (
    Frozen,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
)


class EarlyStopping(Frozen):
    """Ends the run once `patience` evaluations in a row were not better than the best so far by more than `min_delta`.

    The metric is that of the evaluation; `min_delta` is in its unit, 0.001 of top1 for example.
    """

    patience: PositiveInt
    min_delta: NonNegativeFloat = 0.0


class Evaluation(Frozen):
    """When the validation split is evaluated. The best checkpoint is the one with the best `metric` there.

    Without one it is that of `data.target`: top1 for a class, map for labels, mae for numbers.
    """

    every_epochs: PositiveInt = 1
    micro_batch: PositiveInt = 256
    metric: Literal["top1", "map", "mae", "mse", "r2", "loss"] | None = None
    early_stopping: EarlyStopping | None = None


class Checkpoint(Frozen):
    """When state is written to the run folder and how much of it stays (docs/checkpoints.md).

    `every_minutes` counts from the last save, whatever it was for. The newest `keep_last` stay, the best one by
    `evaluation.metric`, and for good that of every `keep_every_epochs`-th epoch.
    A checkpoint that cannot be written (a full disk) is told and the training goes on; `max_failures` in a row end it.
    """

    every_epochs: PositiveInt = 1
    every_steps: PositiveInt | None = None
    every_minutes: PositiveFloat | None = None
    keep_last: Annotated[int, Field(ge=2)] = 2
    keep_every_epochs: PositiveInt | None = None
    max_failures: PositiveInt = 3

    def due_after(self, epoch: int) -> bool:
        """Return whether a checkpoint is written after `epoch` whole epochs."""
        return epoch % self.every_epochs == 0 or self.kept_for_good(epoch)

    def kept_for_good(self, epoch: int) -> bool:
        """Return whether `keep_every_epochs` keeps the checkpoint after `epoch` whole epochs."""
        return self.keep_every_epochs is not None and epoch % self.keep_every_epochs == 0
