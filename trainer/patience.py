"""Counts evaluations without progress: when a plateau lowers the learning rate, and when training ends early.

Both are functions of the evaluations so far, which are equal on all ranks; their state is part of the checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

from megabatch.configs.evaluation import EarlyStopping
from megabatch.configs.schedules import Plateau


@dataclass
class Patience:
    """`best` is the value that the next one is compared with; `bad` counts evaluations in a row that were no better."""

    best: float | None = None
    bad: int = 0
    cooldown: int = 0
    rate_factor: float = 1.0


def lower_rate(state: Patience, settings: Plateau, value: float, higher: bool) -> None:
    """Take note of an evaluation: the rule of torch's ReduceLROnPlateau with threshold_mode "rel".

    Torch takes any value for progress that is a little below a best value below 0, as R2 may be; here it has to be
    better by the threshold whatever its sign.
    """
    if state.best is None or _better(value, _to_beat(state.best, settings.threshold, higher), higher):
        state.best, state.bad = value, 0
    else:
        state.bad += 1
    if state.cooldown > 0:
        state.cooldown -= 1
        state.bad = 0
    if state.bad > settings.patience:
        state.rate_factor = max(state.rate_factor * settings.factor_of_drop, settings.end_factor)
        state.cooldown, state.bad = settings.cooldown, 0


def _to_beat(best: float, threshold: float, higher: bool) -> float:
    away_from_0 = higher == (best >= 0)
    return best * (1.0 + threshold if away_from_0 else 1.0 - threshold)


def should_stop(state: Patience, settings: EarlyStopping, value: float, higher: bool) -> bool:
    """Take note of an evaluation; return whether `patience` of them in a row were not better by `min_delta`."""
    delta = settings.min_delta if higher else -settings.min_delta
    if state.best is None or _better(value, state.best + delta, higher):
        state.best, state.bad = value, 0
    else:
        state.bad += 1
    return state.bad >= settings.patience


def _better(value: float, than: float, higher: bool) -> bool:
    return value > than if higher else value < than
