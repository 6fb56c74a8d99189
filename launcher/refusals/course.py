"""What comes too late in the training, or has nothing to go by."""

from __future__ import annotations

from collections.abc import Iterator

from megabatch.configs.averaging import Swa
from megabatch.configs.cluster import Cluster
from megabatch.configs.optimizers import Lamb, Lars
from megabatch.configs.recipe import Recipe
from megabatch.configs.schedules import CosineRestarts, Plateau
from megabatch.data.dataset import Dataset
from megabatch.data.rate import learning_rate_of
from megabatch.data.steps import steps_of
from megabatch.launcher.refusals.table import Refusal, samples_drawn


def _long_warmup(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    steps = steps_of(recipe, samples_drawn(recipe, dataset))
    if steps.samples_per_epoch:
        warmup = learning_rate_of(recipe, steps).warmup_epochs
        if warmup > recipe.epochs:
            yield f"schedule.warmup is {warmup:g} epochs, more than epochs={recipe.epochs}"


def _late_average(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    draws = samples_drawn(recipe, dataset)
    if isinstance(recipe.averaging, Swa) and draws:
        start = steps_of(recipe, draws).in_epochs(recipe.averaging.start)
        if start > recipe.epochs:
            yield f"averaging.start is {start:g} epochs, more than epochs={recipe.epochs}"


def _unwatched(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if recipe.data.validation_split is None:
        if isinstance(recipe.schedule, Plateau):
            yield "schedule is plateau, and data.validation_split is null"
        if recipe.evaluation.early_stopping is not None:
            yield "evaluation.early_stopping is set, and data.validation_split is null"


def _other_samples(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if recipe.stability.rolls_back and recipe.data.train_stream is not None:
        yield "stability.on_bad_step is roll_back, and data.train_stream is set"


def _no_trust_ratios(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if recipe.tracking.trust_ratios_every_steps is not None and not isinstance(recipe.optimizer, Lars | Lamb):
        yield f"tracking.trust_ratios_every_steps is set, and optimizer is {recipe.optimizer.name}"


def _never_thawed(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    draws = samples_drawn(recipe, dataset)
    for rule in recipe.optimizer.groups if draws else ():
        if rule.frozen_until is not None and steps_of(recipe, draws).in_epochs(rule.frozen_until) >= recipe.epochs:
            length = rule.frozen_until if isinstance(rule.frozen_until, str) else f"{rule.frozen_until:g}"
            yield f"optimizer.groups: {rule.match} has frozen_until={length}, and epochs={recipe.epochs}"


def _broken_cycles(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    schedule = recipe.schedule
    if isinstance(schedule, CosineRestarts) and recipe.epochs % schedule.cycles:
        yield f"schedule.cycles={schedule.cycles} in a training of {recipe.epochs} epochs"


def _warmup_of_a_cycle(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    steps = steps_of(recipe, samples_drawn(recipe, dataset))
    if isinstance(recipe.schedule, CosineRestarts) and steps.samples_per_epoch:
        warmup, length = learning_rate_of(recipe, steps).warmup_epochs, recipe.epochs / recipe.schedule.cycles
        if length <= warmup <= recipe.epochs:
            yield f"schedule.warmup is {warmup:g} epochs, and a cycle {length:g}"


COURSE: tuple[Refusal, ...] = (
    Refusal(
        "A warmup longer than the training",
        "the learning rate would never reach its peak",
        lambda r, c, d: f"schedule.warmup={r.epochs} or less",
        _long_warmup,
    ),
    Refusal(
        "Cycles that do not end with an epoch",
        "the checkpoint at the end of each is kept, and it is that of a whole epoch",
        lambda r, c, d: f"epochs={r.epochs + -r.epochs % getattr(r.schedule, 'cycles', 1)}, or other cycles",
        _broken_cycles,
    ),
    Refusal(
        "A warmup longer than a cycle",
        "the learning rate would not reach its peak before it begins anew",
        lambda r, c, d: f"schedule.warmup below {r.epochs / getattr(r.schedule, 'cycles', 1):g}",
        _warmup_of_a_cycle,
    ),
    Refusal(
        "An average of weights that starts after the end",
        "there would be nothing to average",
        lambda r, c, d: f"averaging.start={r.epochs - 1} or less",
        _late_average,
    ),
    Refusal(
        "A plateau or early stopping without a validation split",
        "both are decided by its metric",
        lambda r, c, d: "name a data.validation_split, or do without",
        _unwatched,
    ),
    Refusal(
        "Rolling back with a stream",
        "a stream cannot be read again from a step on, so the steps to leave out would have other samples",
        lambda r, c, d: "stability.on_bad_step=pass_over, or shards with an index (data.path)",
        _other_samples,
    ),
    Refusal(
        "Trust ratios of an optimizer without any",
        "only LARS and LAMB, those of this program, have them",
        lambda r, c, d: "tracking.trust_ratios_every_steps=null, or optimizer lars or lamb",
        _no_trust_ratios,
    ),
    Refusal(
        "Parameters that are frozen until the training is over",
        "they would never be trained",
        lambda r, c, d: "an earlier frozen_until, or frozen: true",
        _never_thawed,
    ),
)
