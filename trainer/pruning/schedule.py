"""How much is removed after how many steps: a pure function of the step, so nothing of it is in a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from megabatch.configs.pruning import OneShot, PruningSchedule
from megabatch.data.steps import Steps


@dataclass(frozen=True)
class SparsitySchedule:
    """Sparsity rises from 0 to `final` between steps `begin` and `end`, in updates every `every` steps."""

    final: float
    begin: int
    end: int
    every: int

    @property
    def last(self) -> int:
        """Return the step of the last update: from then on the network is as sparse as it gets."""
        return self.begin + (self.end - self.begin) // self.every * self.every

    def due(self, step: int) -> float | None:
        """Return the sparsity that masks get after `step` steps; None where they stay as they are.

        Zhu and Gupta 2017, equation 1, with s_i = 0: `s_t = s_f + (s_i - s_f) * (1 - (t - t_0) / (n * dt)) ** 3` for
        t = t_0, t_0 + dt, ..., t_0 + n * dt. One shot is the update at its only t.

        >>> schedule = SparsitySchedule(final=0.5, begin=10, end=31, every=10)
        >>> [schedule.due(step) for step in (9, 10, 15, 20, 30, 40)]
        [None, 0.0, None, 0.4375, 0.5, None]
        """
        if self.begin == self.end:
            return self.final if step == self.end else None
        updates = (self.end - self.begin) // self.every
        number, between = divmod(step - self.begin, self.every)
        if between or not 0 <= number <= updates:
            return None
        return self.final * (1.0 - (1.0 - number / updates) ** 3)


def schedule_of(settings: PruningSchedule, final: float, steps: Steps) -> SparsitySchedule:
    """Return the schedule in steps of this training; lengths in epochs begin and end at the next step."""
    if isinstance(settings, OneShot):
        return SparsitySchedule(final, 0, 0, 1)
    begin, end = (
        steps.step_at(round(steps.in_epochs(length) * steps.samples_per_epoch))
        for length in (settings.begin, settings.end)
    )
    return SparsitySchedule(final, begin, end, max(1, min(settings.every_steps, end - begin)))
