"""Where a training stands: the position in the data, and the best evaluation so far. The same on all ranks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class TrainState:
    """`step` counts finished optimizer steps; everything random follows from it and the recipe's seed."""

    step: int = 0
    samples_seen: int = 0
    evaluated_step: int = 0
    best_step: int | None = None
    best_value: float | None = None
    attempt: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrainState:
        """Return the state that `to_json` gave."""
        return cls(**values)
