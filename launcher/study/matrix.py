"""The cells of an ablation: which overrides each run has on top of the base recipe. Pure; reads and starts nothing."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from megabatch.configs.errors import ConfigError, Problem

BASE = "base"
_OPENING, _CLOSING = "[{(", "]})"
_LONGEST_NAME = 60


@dataclass(frozen=True)
class Factor:
    """One `--vary KEY=VALUE|VALUE`: a key of the recipe, and the texts that are set one after the other."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One recipe of the ablation; no overrides are the base."""

    overrides: tuple[str, ...]

    @property
    def label(self) -> str:
        """Return what the cell is called in tables."""
        return ", ".join(self.overrides) or BASE

    @property
    def folder(self) -> str:
        """Return a folder name: readable, and another one for every label.

        >>> Cell(("optimizer.name=sgd",)).folder, Cell(()).folder
        ('optimizer.name-sgd-784946', 'base')
        """
        if not self.overrides:
            return BASE
        readable = re.sub(r"[^A-Za-z0-9_.]+", "-", self.label).strip("-.")[:_LONGEST_NAME]
        return f"{readable}-{hashlib.sha256(self.label.encode()).hexdigest()[:6]}"


def parse_factor(text: str) -> Factor:
    """Read `KEY=VALUE|VALUE`. A bar inside quotes or brackets belongs to the value. Raises ConfigError.

    >>> parse_factor("optimizer={name: lars, base_learning_rate: 1.0}|{name: sgd}")
    Factor(key='optimizer', values=('{name: lars, base_learning_rate: 1.0}', '{name: sgd}'))
    """
    key, equals, rest = text.partition("=")
    values = tuple(value.strip() for value in _split_at_bars(rest))
    if not equals or not key.strip() or not all(values):
        raise _mistake(text, "write KEY=VALUE|VALUE, such as regularization.label_smoothing=0|0.1")
    if key.startswith("cluster."):
        raise _mistake(text, "a cluster does not change what is trained: vary keys of the recipe")
    if key.strip() == "seed":
        raise _mistake(text, "every cell has the same seeds: --seeds says how many")
    if len(set(values)) < len(values):
        raise _mistake(text, "a value stands there twice")
    return Factor(key.strip(), values)


def _mistake(text: str, problem: str) -> ConfigError:
    return ConfigError([Problem(f"--vary {text}", problem)])


def _split_at_bars(text: str) -> list[str]:
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        elif sign in _OPENING:
            depth += 1
        elif sign in _CLOSING:
            depth -= 1
        if sign == "|" and not quote and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def cells_of(factors: Sequence[Factor], full: bool) -> list[Cell]:
    """Return the base and each value alone, or with `full` the base and every combination. Raises ConfigError."""
    keys = [factor.key for factor in factors]
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError([Problem(f"--vary {key}=...", "stands there twice: write all values after one --vary")])
    settings = [[f"{factor.key}={value}" for value in factor.values] for factor in factors]
    if full:
        return [Cell(()), *(Cell(combination) for combination in itertools.product(*settings))]
    return [Cell(()), *(Cell((setting,)) for of_factor in settings for setting in of_factor)]
