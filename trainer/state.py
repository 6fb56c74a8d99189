"""Where a training stands: the position in the data, and the best evaluation so far. The same on all ranks."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from megabatch.trainer.guard import GuardState
from megabatch.trainer.noise_scale import NoiseAverages
from megabatch.trainer.patience import Patience


@dataclass
class TrainState:
    """`step` counts finished optimizer steps; everything random follows from it and the recipe's seed."""

    step: int = 0
    samples_seen: int = 0
    evaluated_step: int = 0
    best_step: int | None = None
    best_value: float | None = None
    attempt: int = 1
    plateau: Patience = field(default_factory=Patience)
    early_stopping: Patience = field(default_factory=Patience)
    stopped_early: bool = False
    guard: GuardState = field(default_factory=GuardState)
    noise: NoiseAverages = field(default_factory=NoiseAverages)
    average_updates: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrainState:
        """Return the state that `to_json` gave."""
        values = dict(values)
        plateau, early_stopping = (Patience(**values.pop(name)) for name in ("plateau", "early_stopping"))
        guard, noise = GuardState(**values.pop("guard")), NoiseAverages(**values.pop("noise"))
        return cls(**values, plateau=plateau, early_stopping=early_stopping, guard=guard, noise=noise)
