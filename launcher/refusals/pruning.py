"""Pruning that an engine, a precision or the length of the training does not allow."""

from __future__ import annotations

from collections.abc import Iterator

from megabatch.configs.cluster import Cluster
from megabatch.configs.engines import DeepSpeed
from megabatch.configs.precision import Fp8
from megabatch.configs.pruning import Channels, Cubic, Inherited, Magnitude, masked
from megabatch.configs.recipe import Recipe
from megabatch.data.dataset import Dataset
from megabatch.data.steps import steps_of
from megabatch.launcher.refusals.table import Refusal, samples_drawn


def _nothing_to_begin_with(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if isinstance(recipe.pruning, Channels | Inherited) and recipe.model.pretrained is None:
        yield f"pruning.name={recipe.pruning.name} without model.pretrained"


def _own_copies(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if isinstance(recipe.engine, DeepSpeed) and masked(recipe.pruning) is not None:
        yield f"pruning of weights with engine={recipe.engine.name}"


def _eight_bits(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if isinstance(recipe.precision, Fp8) and recipe.pruning is not None:
        yield f"pruning.name={recipe.pruning.name} with precision=fp8"


def _no_such_time(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    pruning, draws = recipe.pruning, samples_drawn(recipe, dataset)
    if not isinstance(pruning, Magnitude) or not isinstance(pruning.schedule, Cubic) or not draws:
        return
    steps = steps_of(recipe, draws)
    begin, end = (steps.in_epochs(length) for length in (pruning.schedule.begin, pruning.schedule.end))
    if end <= begin or end > recipe.epochs:
        yield f"pruning.schedule from epoch {begin:g} to {end:g}, in a training of {recipe.epochs} epochs"


PRUNING: tuple[Refusal, ...] = (
    Refusal(
        "Channels removed, or a pruning inherited, without a network to begin with",
        "which channels matter, or are gone, is read from weights that were trained",
        lambda r, c, d: "model.pretrained=RUN_DIR, or pruning.name=magnitude",
        _nothing_to_begin_with,
    ),
    Refusal(
        "Weights that stay zero, with DeepSpeed",
        "it steps on flat copies of the weights of its own, and what is zero in the network would grow again from them",
        lambda r, c, d: "engine=ddp or engine=fsdp, or pruning.name=channels",
        _own_copies,
    ),
    Refusal(
        "Pruning with fp8",
        "the two were never run together",
        lambda r, c, d: "precision=bf16",
        _eight_bits,
    ),
    Refusal(
        "A pruning schedule that ends before it begins, or after the training",
        "the network would never get as sparse as the recipe says",
        lambda r, c, d: f"pruning.schedule={{name: cubic, begin: 0, end: {max(r.epochs / 2, 0.5):g}}}",
        _no_such_time,
    ),
)
