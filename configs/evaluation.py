"""When a run is evaluated and what is kept of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from megabatch.configs.base import (
    Frozen,
    NonNegativeFloat,
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
    """When state is written to the run folder and how much of it stays."""

    every_epochs: PositiveInt = 1
    every_steps: PositiveInt | None = None
    keep_last: Annotated[int, Field(ge=2)] = 2
