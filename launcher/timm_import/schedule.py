"""train.py's schedule as a section of a recipe, and the epochs of a run. Rates are fractions of the peak here."""

from __future__ import annotations

import itertools

from megabatch.configs.errors import ConfigError, Problem
from megabatch.launcher.timm_import.values import Section, Values

_MOST_STEPS = 1000
_FALLING = {"cosine": "cosine", "tanh": "cosine", "poly": "polynomial"}


def schedule(values: Values, peak: float) -> tuple[Section, int]:
    """Return the schedule, and for how many epochs the training goes on. Lengths are those of timm's epochs."""
    name = values.take("sched")
    epochs = values.take("epochs")
    if name not in ("cosine", "tanh", "poly", "step", "multistep", "plateau"):
        if name not in ("", "none"):
            values.note("sched", "train.py knows no such schedule and keeps the rate as it is, and so does this recipe")
        return {"name": "constant"}, epochs
    found, epochs = _decay(values, name, epochs, peak)
    warmup = values.take("warmup_epochs")
    if warmup:
        found |= {"warmup": warmup, "start_factor": _fraction(values, "warmup_lr", peak)}
    if warmup and name in _FALLING and not values.look("warmup_prefix"):
        values.note(
            "warmup_epochs", f"{name} has begun during the warmup there (no --warmup-prefix); here it begins after"
        )
    return found, epochs


def divided(found: Section, epochs: int, by: int) -> tuple[Section, int]:
    """Return the same course over epochs that have each sample `by` times."""
    if by == 1:
        return found, epochs
    shorter: Section = {key: round(found[key] / by, 4) for key in ("warmup", "every") if key in found}
    if "milestones" in found:
        shorter["milestones"] = [round(milestone / by, 4) for milestone in found["milestones"]]
    return {**found, **shorter}, max(1, round(epochs / by))


def _decay(values: Values, name: str, epochs: int, peak: float) -> tuple[Section, int]:
    prefix = values.look("warmup_epochs") if values.look("warmup_prefix") and name != "plateau" else 0
    if prefix:
        values.take("warmup_prefix")
    if name == "step":
        return _steps(values, epochs, prefix), epochs + prefix
    if name == "multistep":
        milestones = [milestone - 1 + prefix for milestone in values.take("decay_milestones")]
        values.note("decay_milestones", "timm drops the rate one epoch before each; these are the epochs when it drops")
        return {"name": "multi_step", "milestones": milestones, "gamma": _gamma(values)}, epochs + prefix
    if name == "plateau":
        values.note("patience_epochs", f"counts evaluations here, one every {values.look('val_interval')} epochs")
        ends = {"end_factor": _fraction(values, "min_lr", peak)}
        return {
            "name": "plateau",
            "factor_of_drop": _gamma(values),
            "patience": values.take("patience_epochs"),
            **ends,
        }, epochs
    if name == "tanh":
        values.note("sched", "there is no tanh; a cosine is nearest")
    found: Section = {"name": _FALLING[name], "end_factor": _fraction(values, "min_lr", peak)}
    if name == "poly":
        found["power"] = values.take("decay_rate")
        values.note("decay_rate", "the power of the polynomial, in timm too; its default there is 0.1, here 2")
    return _cycles(values, found, epochs, prefix)


def _cycles(values: Values, found: Section, epochs: int, prefix: int) -> tuple[Section, int]:
    limit = values.look("lr_cycle_limit")
    if limit <= 1:
        return found, epochs + prefix
    plain = found["name"] == "cosine" and values.look("lr_cycle_mul") == 1 and not prefix
    if plain:
        values.take("lr_cycle_limit")
        if values.look("lr_cycle_decay") != 1:
            values.note("lr_cycle_decay", "every cycle of cosine_restarts begins at the peak")
        return {**found, "name": "cosine_restarts", "cycles": limit}, epochs * limit
    values.note("lr_cycle_limit", "only equal cycles of a cosine without --warmup-prefix are repeated here: one cycle")
    return found, epochs + prefix


def _steps(values: Values, epochs: int, prefix: int) -> Section:
    every = values.take("decay_epochs")
    if every <= 0 or epochs / every > _MOST_STEPS:
        told = f"--decay-epochs: {every:g}: write a number that makes {_MOST_STEPS} steps at most"
        raise ConfigError([Problem("command line", told)])
    if not prefix:
        return {"name": "step", "every": every, "gamma": _gamma(values)}
    milestones = itertools.takewhile(lambda place: place < epochs, (every * n for n in itertools.count(1)))
    return {"name": "multi_step", "milestones": [place + prefix for place in milestones], "gamma": _gamma(values)}


def _gamma(values: Values) -> float:
    rate = float(values.take("decay_rate"))
    if not 0 < rate < 1:
        raise ConfigError([Problem("command line", f"--decay-rate: {rate:g}: write a number between 0 and 1")])
    return rate


def _fraction(values: Values, name: str, peak: float) -> float:
    """Return a rate as a fraction of the peak, to six digits."""
    fraction = values.take(name) / peak if peak else 0.0
    if fraction > 1:
        values.note(name, f"is above the peak of {peak:g}: a warmup here begins at the peak at most")
    return float(f"{min(1.0, fraction):.6g}")
