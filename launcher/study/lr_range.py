"""`megabatch tune lr`: what to make of the losses of a range test.

The losses are smoothed with a centred window, so that nothing is shifted to higher rates. Two learning rates come out:
`steepest`, where the smoothed loss falls fastest over log(learning rate), and `safe`, a tenth of the rate at its
minimum (the rule of fastai's learning-rate finder). The safe one is suggested.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from megabatch.configs.job import Job
from megabatch.configs.recipe import Recipe
from megabatch.configs.schedules import Constant
from megabatch.launcher.prepare import Prepared
from megabatch.launcher.pruning import require_no_plan
from megabatch.launcher.study.process import require_local, run_study, say_stopping, scratch_run, without_tracking

SAFE_PART = 10.0
_WINDOW = 0.04  # of all steps, to either side
_LEAST_POINTS = 10
_LEAST_FALL = 0.02  # of the first loss: less is noise


@dataclass(frozen=True)
class LrRange:
    """The outcome of a range test. The suggestions are none where the loss never fell; `problem` then says so."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    ended: str
    steepest: float | None
    minimum: float | None
    safe: float | None
    problem: str


def run_range_test(prepared: Prepared, low: float, high: float, steps: int) -> dict[str, Any]:
    """Run the test; return the rates, the losses and why it ended."""
    require_local(prepared.job, "tune lr")
    require_no_plan(prepared.job, "tune lr")
    job = _long_enough(without_tracking(prepared.job), steps, prepared.plan.steps_per_epoch)
    with scratch_run() as run_dir:
        return run_study(job, run_dir, "lr", {"low": low, "high": high, "steps": steps}, say_stopping)


def _long_enough(job: Job, steps: int, steps_per_epoch: int) -> Job:
    """Return the job with epochs enough for the steps; the schedule takes no part, so its lengths need not fit."""
    epochs = -(-steps // steps_per_epoch)
    return job.model_copy(
        update={"recipe": job.recipe.model_copy(update={"epochs": epochs, "schedule": Constant(warmup=0.0)})}
    )


def analyse(rates: Sequence[float], losses: Sequence[float], ended: str) -> LrRange:
    """Return the smoothed losses and the suggestions.

    >>> rates = [10 ** (n / 20 - 4) for n in range(81)]
    >>> analyse(rates, [2 + (math.log10(r) + 1) ** 2 for r in rates], "high").minimum
    0.1
    """
    smoothed = smooth(losses, max(1, round(_WINDOW * len(losses))))
    nothing = LrRange(tuple(rates), tuple(losses), tuple(smoothed), ended, None, None, None, "")
    if len(losses) < _LEAST_POINTS:
        return _without(nothing, f"only {len(losses)} steps until the loss was lost: begin with a lower --low")
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__)
    if smoothed[0] - smoothed[lowest] < _LEAST_FALL * abs(smoothed[0]):
        return _without(nothing, "the loss never fell: widen the range with --low and --high, or take more --steps")
    minimum = rates[lowest]
    steepest = rates[_steepest(rates[: lowest + 1], smoothed[: lowest + 1])]
    return LrRange(tuple(rates), tuple(losses), tuple(smoothed), ended, steepest, minimum, minimum / SAFE_PART, "")


def _without(result: LrRange, problem: str) -> LrRange:
    return LrRange(result.rates, result.losses, result.smoothed, result.ended, None, None, None, problem)


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Return the mean of each value and up to `window` neighbours to either side, as many on both.

    >>> smooth([3.0, 0.0, 3.0, 6.0], 1)
    [3.0, 2.0, 3.0, 6.0]
    """
    last = len(values) - 1
    means = []
    for place in range(len(values)):
        reach = min(window, place, last - place)
        near = values[place - reach : place + reach + 1]
        means.append(sum(near) / len(near))
    return means


def _steepest(rates: Sequence[float], smoothed: Sequence[float]) -> int:
    """Return the place where the loss falls fastest over log(rate), by central differences."""
    slopes = {
        place: (smoothed[place + 1] - smoothed[place - 1]) / (math.log(rates[place + 1]) - math.log(rates[place - 1]))
        for place in range(1, len(rates) - 1)
    }
    return min(slopes, key=slopes.__getitem__) if slopes else 0


def as_base_learning_rate(recipe: Recipe, rate: float) -> float:
    """Return the `optimizer.base_learning_rate` whose peak for the recipe's global batch is `rate`, to 3 digits."""
    optimizer = recipe.optimizer
    per_base = optimizer.peak_learning_rate(recipe.batch.global_batch) / optimizer.base_learning_rate
    return float(f"{rate / per_base:.3g}")
