"""Decides which steps have no update: loss or gradient not finite, a loss far above the last ones, or left out.

All ranks decide alike, since loss and gradient are summed over the ranks first. The state is part of the checkpoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median

from megabatch.configs.stability import Stability


@dataclass
class GuardState:
    """The last losses of steps that counted, how many bad steps the run had, and which steps are left out.

    `left_out` has the numbers, from 0, of steps without which a run that was rolled back trains again.
    """

    recent: list[float] = field(default_factory=list)
    bad_steps: int = 0
    left_out: list[int] = field(default_factory=list)


def harm_of(settings: Stability, state: GuardState, step: int, loss: float, gradient_norm: float | None) -> str | None:
    """Return why a step should have no update, or None; take note of its loss if it counts."""
    if step in state.left_out:
        return "left out after going back"
    reason = _reason(settings, state, loss, gradient_norm)
    if reason is not None:
        state.bad_steps += 1
    elif settings.loss_spike is not None:
        state.recent = [*state.recent[-(settings.window - 1) :], loss]
    return reason


def _reason(settings: Stability, state: GuardState, loss: float, gradient_norm: float | None) -> str | None:
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if gradient_norm is not None and not math.isfinite(gradient_norm):
        return f"the gradient norm is {gradient_norm}"
    if settings.loss_spike is not None and len(state.recent) == settings.window:
        usual = median(state.recent)
        if loss > settings.loss_spike * usual:
            limit = f"{settings.loss_spike:g} times {usual:.4g}, the median of the last {settings.window}"
            return f"the loss {loss:.4g} is more than {limit}"
    return None
