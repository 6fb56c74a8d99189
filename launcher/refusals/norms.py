"""Batch norms that do not fit the batch, the data or the ranks."""

from __future__ import annotations

from collections.abc import Iterator

from megabatch.configs.cluster import Cluster
from megabatch.configs.norms import GhostNorm, SynchronizedNorm
from megabatch.configs.recipe import Recipe
from megabatch.data.dataset import Dataset
from megabatch.launcher.refusals.table import Refusal, samples_drawn


def _uneven_groups(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    norm, micro_batch = recipe.model.batch_norm, recipe.batch.micro_batch
    if isinstance(norm, GhostNorm) and micro_batch % norm.samples:
        yield f"model.batch_norm.samples={norm.samples} does not divide batch.micro_batch={micro_batch}"


def _fitting_groups(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> str:
    norm, micro_batch = recipe.model.batch_norm, recipe.batch.micro_batch
    assert isinstance(norm, GhostNorm)
    divisors = [n for n in range(1, micro_batch + 1) if micro_batch % n == 0]
    below = max(n for n in divisors if n < norm.samples or n == 1)
    above = min((n for n in divisors if n > norm.samples), default=below)
    fitting = f"{below} or {above}" if below != above else f"{below}"
    return f"model.batch_norm.samples={fitting}, or a micro-batch that is a multiple of {norm.samples}"


def _few_for_statistics(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    precise, draws = recipe.model.precise_statistics, samples_drawn(recipe, dataset)
    if precise is not None and 0 < draws < precise.samples:
        yield f"model.precise_statistics.samples={precise.samples:,}, and an epoch draws {draws:,}"


def _gradients_of_others(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    synchronized = isinstance(recipe.model.batch_norm, SynchronizedNorm)
    if synchronized and recipe.tracking.noise_scale and cluster.num_ranks > 1:
        yield f"tracking.noise_scale with model.batch_norm=synchronized on {cluster.num_ranks} ranks"


NORMS: tuple[Refusal, ...] = (
    Refusal(
        "Groups of a batch norm that do not divide the micro-batch",
        "one group of every micro-batch would be smaller than the others",
        _fitting_groups,
        _uneven_groups,
    ),
    Refusal(
        "Batch-norm statistics over more samples than an epoch has",
        "the same images would come again",
        lambda r, c, d: f"model.precise_statistics.samples={samples_drawn(r, d)} or less",
        _few_for_statistics,
    ),
    Refusal(
        "The noise scale with batch norms that are synchronized among ranks",
        "it compares gradients of samples that know nothing of each other",
        lambda r, c, d: "tracking.noise_scale=false, or another model.batch_norm",
        _gradients_of_others,
    ),
)
