"""The learning rate of a recipe over a training: peak times schedule. Launcher and ranks ask the same function."""

from __future__ import annotations

from dataclasses import dataclass

from megabatch.configs.recipe import Recipe
from megabatch.configs.schedules import Schedule, WarmedUp
from megabatch.data.steps import Steps


@dataclass(frozen=True)
class LearningRate:
    """`peak * schedule.factor(epochs seen)`; every length of the schedule is in epochs.

    `ramp` has (epochs seen, peak) of each growth of the batch that the learning rate follows.
    """

    peak: float
    schedule: Schedule
    epochs: int
    ramp: tuple[tuple[float, float], ...] = ()

    def at(self, epochs_seen: float) -> float:
        """Return the learning rate of a step before which `epochs_seen` epochs were seen."""
        peak = self.peak_at(epochs_seen) if self.ramp else self.peak
        return peak * self.schedule.factor(epochs_seen, self.epochs)

    def peak_at(self, epochs_seen: float) -> float:
        """Return the peak learning rate for the batch of that moment."""
        return next((peak for start, peak in reversed(self.ramp) if start <= epochs_seen), self.peak)

    @property
    def warmup_epochs(self) -> float:
        """Return how long the warmup takes; 0 for a schedule without one."""
        warmup = self.schedule.warmup if isinstance(self.schedule, WarmedUp) else 0.0
        assert not isinstance(warmup, str)
        return warmup


def learning_rate_of(recipe: Recipe, steps: Steps) -> LearningRate:
    """Return the learning rate of a recipe whose steps are `steps`."""
    batch, optimizer = recipe.batch.global_batch, recipe.optimizer
    schedule = recipe.schedule.in_epochs(steps.in_epochs)
    if isinstance(schedule, WarmedUp) and schedule.scale_warmup:
        assert not isinstance(schedule.warmup, str)
        schedule = schedule.model_copy(update={"warmup": schedule.warmup * batch / optimizer.base_batch})
    ramp: tuple[tuple[float, float], ...] = ()
    if recipe.batch.ramp_learning_rate == "follow":
        starts = [(steps.samples_seen(p.first_step) / steps.samples_per_epoch, p) for p in steps.phases[1:]]
        ramp = tuple((start, optimizer.peak_learning_rate(phase.global_batch)) for start, phase in starts)
    return LearningRate(optimizer.peak_learning_rate(batch), schedule, recipe.epochs, ramp)
