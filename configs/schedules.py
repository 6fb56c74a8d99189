"""The learning-rate schedules a recipe can name, each with its formula. Pure functions of epochs seen; no state.

`factor(epochs_seen, epochs)` is multiplied with the peak learning rate. Epochs seen is samples seen divided by the
samples of an epoch, so nothing here depends on ranks or accumulation. Lengths that are written in steps or samples are
turned into epochs once, by `in_epochs`, before a factor is asked for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from typing_extensions import override

from megabatch.configs.base import Choice, Fraction, NonNegativeInt, PositiveFloat, name_only

_TEXT = re.compile(r"(\d[\d_]*(?:\.\d+)?) (epochs?|steps?|samples?)")


def split_length(length: float | str) -> tuple[float, str]:
    """Return number and unit of a length: "epoch", "step" or "sample".

    >>> split_length("500 steps"), split_length(2)
    ((500.0, 'step'), (2.0, 'epoch'))
    """
    if isinstance(length, float | int):
        return float(length), "epoch"
    number, unit = length.split(" ")
    return float(number), unit.removesuffix("s")


def _checked_length(value: float | str) -> float | str:
    if isinstance(value, str) and not _TEXT.fullmatch(value):
        raise ValueError('write a number of epochs, or text such as "500 steps", "1_000_000 samples" or "2.5 epochs"')
    if not math.isfinite(split_length(value)[0]) or split_length(value)[0] < 0:
        raise ValueError("a length cannot be below 0")
    return value


Length = Annotated[float | str, AfterValidator(_checked_length)]
Gamma = Annotated[float, Field(gt=0, lt=1)]


class ScheduleBase(Choice):
    """What all schedules share. A length is a number of epochs, or text: "500 steps", "1_000_000 samples"."""

    def factor(self, epochs_seen: float, epochs: float) -> float:
        """Return the fraction of the peak learning rate once `epochs_seen` of `epochs` have been seen."""
        return 1.0

    def in_epochs(self, convert: Callable[[float | str], float]) -> Self:
        """Return the schedule with every length as `convert` gives it, in epochs."""
        return self

    def ends_cycle(self, epoch: int, epochs: int) -> bool:
        """Return whether the learning rate is at its lowest after `epoch` whole epochs, and rises again or ends."""
        return False


class WarmedUp(ScheduleBase):
    """A schedule that begins with a warmup from `start_factor` to 1 over `warmup` (a length).

    Shape linear: `s + (1 - s) * t` (Goyal et al. 2017, section 2.2); exponential: `s ** (1 - t)`. A length is a number
    of epochs, or text: "500 steps", "1_000_000 samples". With `scale_warmup` the warmup is longer for a larger batch,
    in proportion: `warmup * global_batch / optimizer.base_batch`.
    """

    warmup: Length = 0.0
    warmup_shape: Literal["linear", "exponential"] = "linear"
    start_factor: Fraction = 0.01
    scale_warmup: bool = False

    @model_validator(mode="after")
    def _exponential_starts_above_zero(self) -> Self:
        if self.warmup_shape == "exponential" and self.start_factor == 0:
            raise ValueError("warmup_shape: exponential needs a start_factor above 0")
        return self

    @override
    def factor(self, epochs_seen: float, epochs: float) -> float:
        warmup = _epochs(self.warmup)
        if epochs_seen >= warmup:
            return self.decay(epochs_seen, epochs)
        if self.warmup_shape == "exponential":
            return float(self.start_factor ** (1.0 - epochs_seen / warmup))
        return self.start_factor + (1.0 - self.start_factor) * epochs_seen / warmup

    @override
    def in_epochs(self, convert: Callable[[float | str], float]) -> Self:
        return self.model_copy(update={"warmup": convert(self.warmup)})

    def decay(self, epochs_seen: float, epochs: float) -> float:
        """Return the factor after warmup: 1 here, less in the schedules that decay."""
        return 1.0

    def _progress(self, epochs_seen: float, epochs: float) -> float:
        """Return how much of the time after warmup is over, 0 to 1."""
        warmup = _epochs(self.warmup)
        return min(1.0, (epochs_seen - warmup) / max(epochs - warmup, 1e-12))


class Constant(WarmedUp):
    """The peak learning rate after warmup, to the end."""

    name: Literal["constant"] = "constant"


class Cosine(WarmedUp):
    """`end + (1 - end) * (1 + cos(pi * t)) / 2` (Loshchilov and Hutter 2017, equation 5, without restarts)."""

    name: Literal["cosine"] = "cosine"
    end_factor: Fraction = 0.0

    @override
    def decay(self, epochs_seen: float, epochs: float) -> float:
        return _between(self.end_factor, 0.5 * (1.0 + math.cos(math.pi * self._progress(epochs_seen, epochs))))


class CosineRestarts(WarmedUp):
    """`cycles` times from the peak down to `end_factor` along a cosine, equally long (Huang et al. 2017, equation 2).

    The warmup is a part of the first one. The checkpoint at the end of each is kept for good, so that
    `megabatch ensemble --snapshots` finds it.
    """

    name: Literal["cosine_restarts"] = "cosine_restarts"
    cycles: Annotated[int, Field(ge=2)]
    end_factor: Fraction = 0.0

    @override
    def decay(self, epochs_seen: float, epochs: float) -> float:
        length = epochs / self.cycles
        number = min(self.cycles - 1, math.floor(epochs_seen / length))
        begin = number * length if number else _epochs(self.warmup)
        end = (number + 1) * length
        t = min(1.0, (epochs_seen - begin) / max(end - begin, 1e-12))
        return _between(self.end_factor, 0.5 * (1.0 + math.cos(math.pi * t)))

    @override
    def ends_cycle(self, epoch: int, epochs: int) -> bool:
        return epoch > 0 and epoch * self.cycles % epochs == 0


class Linear(WarmedUp):
    """`1 - (1 - end) * t`: a line from the peak to `end_factor`."""

    name: Literal["linear"] = "linear"
    end_factor: Fraction = 0.0

    @override
    def decay(self, epochs_seen: float, epochs: float) -> float:
        return 1.0 - (1.0 - self.end_factor) * self._progress(epochs_seen, epochs)


class Polynomial(WarmedUp):
    """`end + (1 - end) * (1 - t) ** power`; power 2 in the MLPerf reference for ResNet-50 with LARS."""

    name: Literal["polynomial"] = "polynomial"
    power: PositiveFloat = 2.0
    end_factor: Fraction = 0.0

    @override
    def decay(self, epochs_seen: float, epochs: float) -> float:
        return _between(self.end_factor, (1.0 - self._progress(epochs_seen, epochs)) ** self.power)


class Step(WarmedUp):
    """`gamma ** floor(epochs seen / every)`, counted from the start of training as in Goyal et al. 2017."""

    name: Literal["step"] = "step"
    every: Length
    gamma: Gamma = 0.1

    @model_validator(mode="after")
    def _some_length(self) -> Self:
        if split_length(self.every)[0] == 0:
            raise ValueError("every: a step of length 0 never ends")
        return self

    @override
    def decay(self, epochs_seen: float, epochs: float) -> float:
        return float(self.gamma ** math.floor(epochs_seen / _epochs(self.every)))

    @override
    def in_epochs(self, convert: Callable[[float | str], float]) -> Self:
        return super().in_epochs(convert).model_copy(update={"every": convert(self.every)})


class MultiStep(WarmedUp):
    """`gamma ** (milestones passed)`, each milestone counted from the start of training."""

    name: Literal["multi_step"] = "multi_step"
    milestones: tuple[Length, ...]
    gamma: Gamma = 0.1

    @override
    def decay(self, epochs_seen: float, epochs: float) -> float:
        passed = sum(epochs_seen >= _epochs(milestone) for milestone in self.milestones)
        return float(self.gamma**passed)

    @override
    def in_epochs(self, convert: Callable[[float | str], float]) -> Self:
        milestones = tuple(convert(milestone) for milestone in self.milestones)
        return super().in_epochs(convert).model_copy(update={"milestones": milestones})


class Exponential(WarmedUp):
    """`gamma ** (epochs since the warmup)`: `gamma` is the decay of an epoch, 0.97 for example."""

    name: Literal["exponential"] = "exponential"
    gamma: Gamma

    @override
    def decay(self, epochs_seen: float, epochs: float) -> float:
        return float(self.gamma ** (epochs_seen - _epochs(self.warmup)))


class WarmupStableDecay(WarmedUp):
    """The peak until `decay_over` (a length) before the end, then down to `end_factor` (Hu et al. 2024, MiniCPM).

    With t from 0 to 1 over the decay the factor falls as `1 - t` (linear), `(1 + cos(pi * t)) / 2` (cosine) or
    `1 - sqrt(t)` (sqrt; Haegele et al. 2024, which found it the best of the three).
    """

    name: Literal["warmup_stable_decay"] = "warmup_stable_decay"
    decay_over: Length
    decay_shape: Literal["linear", "cosine", "sqrt"] = "sqrt"
    end_factor: Fraction = 0.0

    @override
    def decay(self, epochs_seen: float, epochs: float) -> float:
        length = _epochs(self.decay_over)
        t = min(1.0, max(0.0, (epochs_seen - (epochs - length)) / max(length, 1e-12)))
        falling = {"linear": 1.0 - t, "cosine": 0.5 * (1.0 + math.cos(math.pi * t)), "sqrt": 1.0 - math.sqrt(t)}
        return _between(self.end_factor, falling[self.decay_shape])

    @override
    def in_epochs(self, convert: Callable[[float | str], float]) -> Self:
        return super().in_epochs(convert).model_copy(update={"decay_over": convert(self.decay_over)})


class OneCycle(ScheduleBase):
    """Up to the peak over the first `rise` of the training, then down, both along a cosine (Smith and Topin 2018).

    Starts at `start_factor` and ends at `end_factor` of the peak; the defaults are those of torch's OneCycleLR. Only
    the learning rate is cycled, the momentum stays as it is.
    """

    name: Literal["one_cycle"] = "one_cycle"
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.3
    start_factor: Fraction = 0.04
    end_factor: Fraction = 0.000004

    @override
    def factor(self, epochs_seen: float, epochs: float) -> float:
        t = min(1.0, epochs_seen / epochs)
        if t < self.rise:
            return _between(self.start_factor, 0.5 * (1.0 - math.cos(math.pi * t / self.rise)))
        return _between(self.end_factor, 0.5 * (1.0 + math.cos(math.pi * (t - self.rise) / (1.0 - self.rise))))


class Plateau(WarmedUp):
    """The peak, times `factor_of_drop` each time the validation metric has not improved for a while.

    After more than `patience` evaluations in a row that are not better than the best so far by `threshold` (relative;
    of the metric of `evaluation.metric`), the rate drops, not below `end_factor`; then `cooldown` evaluations do not
    count. The rule of torch's ReduceLROnPlateau. Where it stands is kept in the checkpoint.
    """

    name: Literal["plateau"] = "plateau"
    factor_of_drop: Gamma = 0.1
    patience: NonNegativeInt = 3
    threshold: Fraction = 0.0001
    cooldown: NonNegativeInt = 0
    end_factor: Fraction = 0.0


def _between(end: float, falling: float) -> float:
    """Return `end` for 0, 1 for 1, and what lies between on a line."""
    return end + (1.0 - end) * falling


def _epochs(length: float | str) -> float:
    assert not isinstance(length, str), "in_epochs comes before factor"
    return length


Schedule = Annotated[
    Constant | Cosine | CosineRestarts | Linear | Polynomial | Step | MultiStep | Exponential | OneCycle
    | WarmupStableDecay | Plateau,
    Field(discriminator="name"), BeforeValidator(name_only),
]  # fmt: skip
