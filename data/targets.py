"""Targets that are no single class: a member of a sample to numbers, or to a row of 0 and 1 with one place a class."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabatch.configs.targets import LabelsTarget, NumbersTarget, Target

Row = NDArray[np.float32]
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")  # float() would take 1_0, nan and inf as well
_SHOWN = 40


@dataclass(frozen=True)
class TargetReader:
    """Which member has the target of a sample, how many numbers it becomes, and what makes them of its bytes.

    `parse` returns float32 of shape (outputs,). It raises ValueError with the reason.
    """

    extension: str
    outputs: int
    parse: Callable[[bytes], Row]


def target_reader(target: Target, classes: Sequence[str]) -> TargetReader | None:
    """Return what reads a target; None for a class, which the index already knows the place of."""
    if isinstance(target, NumbersTarget):
        parse = partial(_of_json, target.keys) if target.member == "json" else partial(_of_text, target.outputs)
        return TargetReader(target.member, target.outputs, partial(_standardized, target, parse))
    if isinstance(target, LabelsTarget):
        numbers = {name: number for number, name in enumerate(classes)}
        return TargetReader("json", len(classes), partial(_of_labels, target.key, numbers))
    return None


def _standardized(target: NumbersTarget, parse: Callable[[bytes], list[float]], content: bytes) -> Row:
    values = np.array(parse(content), dtype=np.float64)
    if target.mean is not None and target.std is not None:
        values = (values - np.array(target.mean)) / np.array(target.std)
    if not (np.abs(values) <= np.finfo(np.float32).max).all():
        raise ValueError(f"{_shown(content)} has a number that is too large for float32")
    return values.astype(np.float32)


def _of_text(count: int, content: bytes) -> list[float]:
    words = content.decode("utf-8", "replace").split()
    wrong = [word for word in words if not _NUMBER.fullmatch(word)]
    if wrong or len(words) != count:
        wanted = "one number" if count == 1 else f"{count} numbers with white space between them"
        raise ValueError(f"{_shown(content)} is not {wanted}")
    return [float(word) for word in words]


def _of_json(keys: Sequence[str], content: bytes) -> list[float]:
    return [_number(key, _under(key, content)) for key in keys]


def _number(key: str, value: object) -> float:
    if type(value) not in (int, float):  # true is no number
        raise ValueError(f"{key} is {_shown(value)}, no number")
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        raise ValueError(f"{key} is too large for float32") from None


def _of_labels(key: str, numbers: dict[str, int], content: bytes) -> Row:
    labels = _under(key, content)
    if not isinstance(labels, list):
        raise ValueError(f"{key} is {_shown(labels)}, no list of classes")
    row = np.zeros(len(numbers), dtype=np.float32)
    for label in labels:
        row[_class_number(label, numbers)] = 1.0
    return row


def _class_number(label: object, numbers: dict[str, int]) -> int:
    if isinstance(label, str) and label in numbers:
        return numbers[label]
    if type(label) is int and 0 <= label < len(numbers):
        return label
    raise ValueError(f"label {_shown(label)} is outside the {len(numbers)} classes")


def _under(key: str, content: bytes) -> Any:  # Any: a JSON value
    try:
        values = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ValueError(f"{_shown(content)} is no JSON") from None
    if not isinstance(values, dict) or key not in values:
        raise ValueError(f"{_shown(content)} has no {key!r}")
    return values[key]


def _refuse_constant(text: str) -> None:
    """NaN and Infinity are not JSON, though Python reads them."""
    raise ValueError(text)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
