"""What differs between two descriptions of the same thing, as lines that a person can act on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_MOST_LINES = 6
_MOST_CHARACTERS = 60
_ABSENT = "not there"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a line for each key, of nested maps too, whose value is another one; of many the first few.

    >>> differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": "x"})
    ['a.c: 2, now 3', "d: not there, now 'x'"]
    """
    old, new = flat(before), flat(now)
    keys = [key for key in {**old, **new} if old.get(key, _ABSENT) != new.get(key, _ABSENT)]
    lines = [f"{key}: {_shown(old, key)}, now {_shown(new, key)}" for key in keys]
    rest = len(lines) - _MOST_LINES
    return lines if rest <= 0 else [*lines[:_MOST_LINES], f"and {rest} more"]


def first_difference(its: Sequence[str], own: Sequence[str]) -> tuple[int, str, str]:
    """Return where two lists of classes, which are not the same, differ first, and what stands there in each.

    >>> first_difference(["cat", "dog"], ["cat"])
    (1, 'dog', 'no class')
    """
    pairs = enumerate(zip((*its, "no class"), (*own, "no class"), strict=False))
    return next((number, there, here) for number, (there, here) in pairs if there != here)


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested maps as one, with dotted keys.

    >>> flat({"a": {"b": 1, "c": [2]}, "d": {}})
    {'a.b': 1, 'a.c': [2], 'd': {}}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found.update({f"{key}.{inner}": deep for inner, deep in flat(value).items()})
        else:
            found[key] = value
    return found


def _shown(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return _ABSENT
    text = repr(values[key])
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."
