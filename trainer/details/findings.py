"""What is found of the samples of an evaluation; the same on any number of ranks.

Shapes: N samples of a micro-batch, K outputs of the network.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import torch

MOST_MISTAKES = 24


class Mistake(NamedTuple):
    """A sample by its position in the split, its loss, and what else is told of it."""

    position: int
    loss: float
    told: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return what is told of it."""
        return {**self.told, "loss": rounded(self.loss)}


class Findings(Protocol):
    """Takes in what this rank evaluates; the others are called afterwards, on all ranks together."""

    def take_in(self, first: int, outputs_NK: torch.Tensor, targets: torch.Tensor, weights_N: torch.Tensor) -> None:
        """Take in a micro-batch: number of its first sample, what the network said, what it should, what counts."""

    def mistakes(self, num_ranks: int) -> list[Mistake]:
        """Return the worst mistakes of all ranks, the greatest loss first; the same on every rank."""

    def summary(self, num_ranks: int) -> dict[str, Any] | None:
        """Return what is told of all samples; None but on rank 0."""


def worst_first(mistakes: list[Mistake]) -> list[Mistake]:
    """Return the worst of them by loss, equal ones by position; a loss that is no number is the worst."""

    def place(mistake: Mistake) -> tuple[float, int]:
        return (-math.inf if math.isnan(mistake.loss) else -mistake.loss, mistake.position)

    return sorted(mistakes, key=place)[:MOST_MISTAKES]


def rounded(value: float) -> float | None:
    """Return a value with four digits, as nobody reads more; None for what JSON has no word for.

    >>> rounded(0.123456), rounded(float("nan")), rounded(1e-7)
    (0.1235, None, 1e-07)
    """
    return float(f"{value:.4g}") if math.isfinite(value) else None
