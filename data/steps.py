"""The arithmetic of steps: which positions of an epoch make up a step, and which rank takes which micro-batch.

Pure integers, no torch. The micro-batch is the unit: a cluster only decides how the micro-batches of a step are
shared out, never which samples are in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from megabatch.configs.recipe import Recipe
from megabatch.configs.schedules import split_length


@dataclass(frozen=True)
class MicroBatchSpan:
    """Positions start to stop of an epoch; `number` counts the micro-batches of the step."""

    number: int
    start: int
    stop: int

    @property
    def samples(self) -> int:
        """Return how many samples the micro-batch has; 0 for the filler of a rank that has none to do."""
        return self.stop - self.start


@dataclass(frozen=True)
class StepSpan:
    """One optimizer step: positions start to stop of `epoch`. `step` counts from the start of training."""

    step: int
    epoch: int
    start: int
    stop: int
    first_micro_batch: int
    micro_batch: int

    @property
    def samples(self) -> int:
        """Return how many samples the step takes; less than the global batch only at the end of an epoch."""
        return self.stop - self.start

    @property
    def num_micro_batches(self) -> int:
        """Return M = ceil(samples / micro_batch)."""
        return -(-self.samples // self.micro_batch)

    def of_rank(self, rank: int, num_ranks: int, together: bool = False) -> list[MicroBatchSpan]:
        """Return the micro-batches of one rank: number q of the epoch goes to rank q mod num_ranks.

        Never empty: ranks take part in every reduction, so a rank with nothing to do gets a filler without samples.
        `together`: so does one that has a micro-batch less than others, as they wait for each other in each of them.
        """
        first = (rank - self.first_micro_batch) % num_ranks
        numbers = range(first, self.num_micro_batches, num_ranks)
        spans = [self._span(number) for number in numbers]
        least = -(-self.num_micro_batches // num_ranks) if together else 1
        return spans if len(spans) >= least else [*spans, MicroBatchSpan(-1, self.start, self.start)]

    def _span(self, number: int) -> MicroBatchSpan:
        start = self.start + number * self.micro_batch
        return MicroBatchSpan(number, start, min(start + self.micro_batch, self.stop))


class Phase(NamedTuple):
    """Steps from `first_step` on take `global_batch` samples. The first one begins at `start` of `epoch`."""

    global_batch: int
    first_step: int
    epoch: int
    start: int
    first_micro_batch: int


@dataclass(frozen=True)
class Steps:
    """All steps of a training: `epochs` times over `samples`, `global_batch` at a time.

    `ramp` has (samples seen, global batch) in rising order: from the first step that begins there or later, steps take
    that many samples. Every question is answered in time proportional to the length of the ramp.

    >>> steps = Steps(samples=10, epochs=2, global_batch=4, micro_batch=2, last_batch="short")
    >>> steps.per_epoch, steps.total, [steps.at(k).samples for k in range(4)]
    (3, 6, [4, 4, 2, 4])
    >>> steps = Steps(samples=10, epochs=2, global_batch=2, micro_batch=2, last_batch="short", ramp=((3, 5),))
    >>> [steps.at(k).samples for k in range(steps.total)]
    [2, 2, 5, 1, 5, 5]
    """

    samples: int
    epochs: int
    global_batch: int
    micro_batch: int
    last_batch: Literal["short", "drop"]
    ramp: tuple[tuple[int, int], ...] = ()

    @cached_property
    def per_epoch(self) -> int:
        """Return the number of optimizer steps in the first epoch; without a ramp, in every one."""
        if self.ramp:
            return self.step_at(self.samples_per_epoch)
        return -(-self.samples_per_epoch // self.global_batch)

    @cached_property
    def total(self) -> int:
        """Return the number of optimizer steps in all."""
        return self.step_at(self.epochs * self.samples_per_epoch) if self.samples_per_epoch else 0

    @cached_property
    def samples_per_epoch(self) -> int:
        """Return how many samples an epoch trains on: all of them, unless the last batch is dropped."""
        return self.samples - self.samples % self.global_batch if self.last_batch == "drop" else self.samples

    @property
    def num_micro_batches(self) -> int:
        """Return M = ceil(global_batch / micro_batch), the micro-batches of a full step before any ramp."""
        return -(-self.global_batch // self.micro_batch)

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """Return the parts of the training with one global batch each."""
        phases = [Phase(self.global_batch, 0, 0, 0, 0)]
        for samples_seen, global_batch in self.ramp:
            step = max(self._step_in(phases[-1], samples_seen), phases[-1].first_step)
            phases.append(Phase(global_batch, step, *self._position_in(phases[-1], step)))
        return tuple(phases)

    def at(self, step: int) -> StepSpan:
        """Return step number `step`, from 0."""
        phase = self._phase_of(step)
        epoch, start, first_micro_batch = self._position_in(phase, step)
        stop = min(start + phase.global_batch, self.samples_per_epoch)
        return StepSpan(step, epoch, start, stop, first_micro_batch, self.micro_batch)

    def samples_seen(self, step: int) -> int:
        """Return how many samples have been trained on before step number `step`."""
        return self.progress(step)[0]

    def batch_of(self, step: int) -> int:
        """Return the global batch of the part of the training that a step is in."""
        return self._phase_of(step).global_batch

    def progress(self, step: int) -> tuple[int, int | None]:
        """Return, after `step` steps, the samples seen and the epochs finished; None inside an epoch."""
        if self.ramp:
            epoch, start, _ = self._position_in(self._phase_of(step), step)
        else:  # the same, quicker: this is asked in every step
            epoch, later = divmod(step, self.per_epoch)
            start = later * self.global_batch
        return epoch * self.samples_per_epoch + start, epoch if start == 0 else None

    def in_epochs(self, length: float | str) -> float:
        """Return a length of a schedule as a number of epochs: 2.5, "500 steps" or "1_000_000 samples".

        >>> Steps(samples=10, epochs=2, global_batch=4, micro_batch=2, last_batch="short").in_epochs("4 steps")
        1.4
        """
        number, unit = split_length(length)
        if unit == "epoch":
            return number
        samples = number if unit == "sample" else self.samples_seen(round(number))
        return samples / self.samples_per_epoch

    def step_at(self, samples_seen: int) -> int:
        """Return the number of the step that comes after `samples_seen` samples."""
        begun = [p for p in self.phases if p.epoch * self.samples_per_epoch + p.start <= samples_seen]
        return self._step_in(begun[-1], samples_seen)

    def _phase_of(self, step: int) -> Phase:
        for phase in reversed(self.phases):
            if phase.first_step <= step:
                return phase
        raise AssertionError(f"step {step} is before the first")

    def _position_in(self, phase: Phase, step: int) -> tuple[int, int, int]:
        """Return epoch, position in it, and micro-batches of the epoch before a step of the phase."""
        batch = phase.global_batch
        rest_of_epoch = -(-(self.samples_per_epoch - phase.start) // batch)
        micro_batches = -(-batch // self.micro_batch)
        later = step - phase.first_step
        if later < rest_of_epoch:
            return phase.epoch, phase.start + later * batch, phase.first_micro_batch + later * micro_batches
        epochs, later = divmod(later - rest_of_epoch, -(-self.samples_per_epoch // batch))
        return phase.epoch + 1 + epochs, later * batch, later * micro_batches

    def _step_in(self, phase: Phase, samples_seen: int) -> int:
        """Return the first step of the phase that begins after `samples_seen` samples or later."""
        batch = phase.global_batch
        epoch, rest = divmod(samples_seen, self.samples_per_epoch)
        if epoch == phase.epoch:
            return phase.first_step - (phase.start - rest) // batch
        rest_of_epoch = -(-(self.samples_per_epoch - phase.start) // batch)
        whole_epochs = (epoch - phase.epoch - 1) * -(-self.samples_per_epoch // batch)
        return phase.first_step + rest_of_epoch + whole_epochs - (-rest // batch)


def steps_of(recipe: Recipe, samples: int) -> Steps:
    """Return the steps of a recipe whose epochs have `samples` draws."""
    batch = recipe.batch
    ramp = tuple((start.in_samples(samples), start.global_batch) for start in batch.ramp)
    return Steps(samples, recipe.epochs, batch.global_batch, batch.micro_batch, batch.last_batch, ramp)
