"""The arithmetic of steps: which positions of an epoch make up a step, and which rank takes which micro-batch.

Pure integers, no torch. The micro-batch is the unit: a cluster only decides how the micro-batches of a step are
shared out, never which samples are in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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

    def of_rank(self, rank: int, num_ranks: int) -> list[MicroBatchSpan]:
        """Return the micro-batches of one rank: number q of the epoch goes to rank q mod num_ranks.

        Never empty: ranks take part in every reduction, so a rank with nothing to do gets a filler without samples.
        """
        first = (rank - self.first_micro_batch) % num_ranks
        numbers = range(first, self.num_micro_batches, num_ranks)
        return [self._span(number) for number in numbers] or [MicroBatchSpan(-1, self.start, self.start)]

    def _span(self, number: int) -> MicroBatchSpan:
        start = self.start + number * self.micro_batch
        return MicroBatchSpan(number, start, min(start + self.micro_batch, self.stop))


@dataclass(frozen=True)
class Steps:
    """All steps of a training: `epochs` times over `samples`, `global_batch` at a time.

    >>> steps = Steps(samples=10, epochs=2, global_batch=4, micro_batch=2, last_batch="short")
    >>> steps.per_epoch, steps.total, [steps.at(k).samples for k in range(4)]
    (3, 6, [4, 4, 2, 4])
    """

    samples: int
    epochs: int
    global_batch: int
    micro_batch: int
    last_batch: Literal["short", "drop"]

    @property
    def per_epoch(self) -> int:
        """Return the number of optimizer steps in an epoch."""
        if self.last_batch == "drop":
            return self.samples // self.global_batch
        return -(-self.samples // self.global_batch)

    @property
    def total(self) -> int:
        """Return the number of optimizer steps in all."""
        return self.per_epoch * self.epochs

    @property
    def samples_per_epoch(self) -> int:
        """Return how many samples an epoch trains on: all of them, unless the last batch is dropped."""
        return min(self.samples, self.per_epoch * self.global_batch)

    @property
    def num_micro_batches(self) -> int:
        """Return M = ceil(global_batch / micro_batch), the micro-batches of a full step."""
        return -(-self.global_batch // self.micro_batch)

    def at(self, step: int) -> StepSpan:
        """Return step number `step`, from 0."""
        epoch, step_of_epoch = divmod(step, self.per_epoch)
        start = step_of_epoch * self.global_batch
        stop = min(start + self.global_batch, self.samples)
        return StepSpan(step, epoch, start, stop, step_of_epoch * self.num_micro_batches, self.micro_batch)

    def samples_seen(self, step: int) -> int:
        """Return how many samples have been trained on before step number `step`."""
        epoch, step_of_epoch = divmod(step, self.per_epoch)
        return epoch * self.samples_per_epoch + min(step_of_epoch * self.global_batch, self.samples_per_epoch)

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
        epoch, rest = divmod(samples_seen, self.samples_per_epoch)
        return epoch * self.per_epoch + -(-rest // self.global_batch)
