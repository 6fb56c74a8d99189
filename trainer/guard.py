"""Decides which steps are passed over: loss or gradient not finite, or a loss far above the last ones.

All ranks decide alike, since loss and gradient are summed over the ranks first. The state is part of the checkpoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median

from megabatch.configs.stability import Stability


@dataclass
class GuardState:
    """The last losses of steps that counted, and how many steps were passed over in the run."""

    recent: list[float] = field(default_factory=list)
    passed_over: int = 0


def harm_of(settings: Stability, state: GuardState, loss: float, gradient_norm: float | None) -> str | None:
    """Return why a step should be passed over, or None; take note of its loss if it counts."""
    reason = _reason(settings, state, loss, gradient_norm)
    if reason is not None:
        state.passed_over += 1
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
            return f"the loss {loss:.4g} is more than {settings.loss_spike:g} times {usual:.4g}, the median of the last"
    return None
