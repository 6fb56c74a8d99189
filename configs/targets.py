"""What an image is trained towards: one class, several classes at once, or numbers; and the metrics of each.

This is the one place that says which metric is watched and which way it improves; launcher and trainer both read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, model_validator

from megabatch.configs.base import Choice, PositiveFloat, PositiveInt, name_only

Key = Annotated[str, Field(min_length=1)]


class ClassTarget(Choice):
    """One class: the integer in the sample's `.cls`."""

    name: Literal["class"] = "class"


class LabelsTarget(Choice):
    """Any number of classes at once: a list under `key` in the sample's `.json`, of numbers or names of classes.

    An empty list is a sample without any class. The network has one output for each class of the data set.
    """

    name: Literal["labels"] = "labels"
    key: Key = "labels"


class NumbersTarget(Choice):
    """Numbers (regression), one output for each: those under `keys` in the sample's `.json`, or `count` in a text.

    A text (`member: txt` or `num`) has the numbers alone, with white space between them. With `mean` and `std`, one for
    each number, the network learns `(number - mean) / std`; metrics are in the unit of the data.
    """

    name: Literal["numbers"] = "numbers"
    member: Literal["json", "txt", "num"] = "json"
    keys: tuple[Key, ...] = ()
    count: PositiveInt | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[PositiveFloat, ...] | None = None

    @model_validator(mode="after")
    def _says_which_numbers(self) -> Self:
        if self.member == "json" and (not self.keys or self.count is not None):
            raise ValueError("numbers of a .json are named by `keys: [...]`, and not counted")
        if self.member != "json" and (self.keys or self.count is None):
            raise ValueError(f"numbers of a .{self.member} have no names: write how many there are, `count: 1`")
        if len(set(self.keys)) < len(self.keys):
            raise ValueError("keys: one of them comes twice")
        return self

    @model_validator(mode="after")
    def _mean_and_std_fit(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("write both mean and std, or none of them")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != self.outputs:
                raise ValueError(f"{name} has {len(values)} numbers for {self.outputs} targets")
        return self

    @property
    def outputs(self) -> int:
        """Return how many numbers a sample has."""
        return self.count or len(self.keys)


Target = Annotated[ClassTarget | LabelsTarget | NumbersTarget, Field(discriminator="name"), BeforeValidator(name_only)]


def num_outputs(target: Target, num_classes: int) -> int:
    """Return how many outputs the network needs."""
    return target.outputs if isinstance(target, NumbersTarget) else num_classes


def described_outputs(target: Target, num_classes: int) -> str:
    """Return in words what the outputs are."""
    if isinstance(target, NumbersTarget):
        names = f": {', '.join(target.keys)}" if target.keys else ""
        return f"{target.outputs} number{'s' if target.outputs > 1 else ''} a sample{names}"
    return f"{num_classes} classes" + (", several at once" if isinstance(target, LabelsTarget) else "")


class Metric(NamedTuple):
    """A number of an evaluation: its title, which way it improves, and whether it is a share from 0 to 1."""

    title: str
    higher_is_better: bool
    is_share: bool

    def shown(self, value: float) -> str:
        """Return the value as a person reads it."""
        return f"{value:.2%}" if self.is_share else f"{value:.4g}"

    @property
    def factor(self) -> int:
        """Return what a value is multiplied by in tables: shares stand there in percent."""
        return 100 if self.is_share else 1

    @property
    def unit(self) -> str:
        """Return what stands over the numbers of a table."""
        return "%" if self.is_share else self.title

    def cell(self, value: float, sign: bool = False) -> str:
        """Return the value as it stands in a table, without its unit.

        >>> METRICS["top1"].cell(0.9641), METRICS["mae"].cell(-0.01234567, sign=True)
        ('96.41', '-0.01235')
        """
        return f"{self.factor * value:{'+' if sign else ''}{'.2f' if self.is_share else '.4g'}}"


METRICS = {  # the first of those that a target has is its main one
    "map": Metric("mAP", True, True),
    "top1": Metric("top-1", True, True),
    "top5": Metric("top-5", True, True),
    "mae": Metric("MAE", False, False),
    "mse": Metric("MSE", False, False),
    "r2": Metric("R2", True, False),
    "loss": Metric("loss", False, False),
}
METRICS_OF = {
    "class": ("top1", "top5", "loss"),
    "labels": ("map", "top1", "loss"),
    "numbers": ("mae", "mse", "r2", "loss"),
}


def main_metric(target: Target) -> str:
    """Return the name of the metric that a target is judged by."""
    return main_metric_in(dict.fromkeys(METRICS_OF[target.name]))


def main_metric_in(result: Mapping[str, object]) -> str:
    """Return the name of the metric by which the target is judged that a result belongs to."""
    return next(name for name in METRICS if name in result)


def higher_is_better(metric: str) -> bool:
    """Return which way a metric improves."""
    return METRICS[metric].higher_is_better


def is_better(value: float, than: float, metric: str) -> bool:
    """Return whether a value of a metric is better than another."""
    return value > than if higher_is_better(metric) else value < than
