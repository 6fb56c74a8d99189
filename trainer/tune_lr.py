"""The learning-rate range test (Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3).

The learning rate grows from `low` to `high` by the same factor every step, and the loss of every step is noted. The
steps are those of a training: same data, same optimizer, same micro-batches; only the schedule is another one.
"""

from __future__ import annotations

import math
from typing import Any

from megabatch.trainer.build import Parts
from megabatch.trainer.step import take_step

DIVERGED = 4.0  # times the lowest smoothed loss, as in fastai's learning-rate finder
_MEMORY = 0.9  # of the running mean of the loss


def range_test(parts: Parts, low: float, high: float, steps: int) -> dict[str, Any]:
    """Take up to `steps` steps; return rates and losses.

    `ended` says why it ended: at the rate "high", by a loss "diverged" or "not finite", or "stopped" on request.
    """
    micro_batches = parts.micro_batches_from(0)
    rates: list[float] = []
    losses: list[float] = []
    watch = _Watch()
    ended = "high"
    for rate in exponential_rates(low, high, steps):
        report = take_step(parts.step_parts, micro_batches, rate, parts.state)
        # With loss scaling a gradient overflows now and then, and that is no bad step.
        not_finite = report.passed_over is not None and not math.isfinite(report.gradient_norm or 0.0)
        if not_finite or not math.isfinite(report.loss):
            ended = "not finite"
            break
        rates.append(rate)
        losses.append(report.loss)
        if report.stop_requested:
            ended = "stopped"
            break
        if watch.diverged(report.loss):
            ended = "diverged"
            break
    return {"rates": rates, "losses": losses, "ended": ended}


def exponential_rates(low: float, high: float, steps: int) -> list[float]:
    """Return `steps` learning rates from `low` to `high`, each the same factor above the one before.

    >>> exponential_rates(0.25, 1.0, 3)
    [0.25, 0.5, 1.0]
    """
    return [low * (high / low) ** (number / (steps - 1)) for number in range(steps)]


class _Watch:
    """Tells when the running mean of the loss, corrected for its start, is far above its lowest value."""

    def __init__(self) -> None:
        self._sum = self._weight = 0.0
        self._lowest = math.inf

    def diverged(self, loss: float) -> bool:
        self._sum = _MEMORY * self._sum + (1 - _MEMORY) * loss
        self._weight = _MEMORY * self._weight + (1 - _MEMORY)
        mean = self._sum / self._weight
        self._lowest = min(self._lowest, mean)
        return mean > DIVERGED * self._lowest
