"""Batches that do not fit the samples, the ranks or each other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from megabatch.configs.cluster import Cluster
from megabatch.configs.recipe import Recipe
from megabatch.data.dataset import Dataset
from megabatch.data.steps import steps_of
from megabatch.launcher.refusals.table import Refusal, samples_drawn


def _micro_over_global(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    batch = recipe.batch
    if batch.micro_batch > batch.smallest:
        where = "batch.global_batch" if batch.smallest == batch.global_batch else "batch.ramp: global_batch"
        yield f"batch.micro_batch={batch.micro_batch} > {where}={batch.smallest}"


def _too_many_ranks(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    batch = recipe.batch
    micro_batches = -(-batch.smallest // batch.micro_batch)
    if batch.micro_batch <= batch.smallest and micro_batches < cluster.num_ranks:
        yield (
            f"{cluster.num_ranks} ranks share {micro_batches} micro-batches a step "
            f"(global batch {batch.smallest} / micro-batch {batch.micro_batch})"
        )


def _smaller_micro_batch(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> str:
    fitting = recipe.batch.smallest // cluster.num_ranks
    if fitting == 0:
        return f"a global batch of at least {cluster.num_ranks}, or at most {recipe.batch.smallest} ranks"
    return f"batch.micro_batch={fitting} or less, a larger batch.global_batch, or fewer ranks"


def _ramp_out_of_order(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    steps = steps_of(recipe, samples_drawn(recipe, dataset))
    if not steps.ramp or not steps.samples_per_epoch:
        return
    starts = [0, *(start for start, _ in steps.ramp)]
    shown = ", ".join(f"{start:,}" for start in starts[1:])
    if any(later <= start for start, later in pairwise(starts)):
        yield f"batch.ramp starts after {shown} samples"
    elif any(later.first_step <= p.first_step for p, later in pairwise((*steps.phases,))):
        yield f"batch.ramp starts after {shown} samples, and two of them fall on one step"
    elif steps.phases[-1].first_step >= steps.total:
        end = steps.samples_seen(steps.total)
        yield f"batch.ramp starts after {shown} samples, and the training ends after {end:,}"


def _nothing_left(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    draws = samples_drawn(recipe, dataset)
    if recipe.batch.last_batch == "drop" and 0 < draws < recipe.batch.global_batch:
        yield f"batch.last_batch=drop with {draws:,} samples and batch.global_batch={recipe.batch.global_batch}"


def _copies_apart(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if recipe.data.repeats > recipe.batch.global_batch:
        yield f"data.repeats={recipe.data.repeats} > batch.global_batch={recipe.batch.global_batch}"


def _nothing_to_compare(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    batch = recipe.batch
    if recipe.tracking.noise_scale and cluster.num_ranks == 1 and batch.smallest <= batch.micro_batch:
        yield f"tracking.noise_scale with one rank and one micro-batch a step (batch.micro_batch={batch.micro_batch})"


BATCH: tuple[Refusal, ...] = (
    Refusal(
        "A micro-batch larger than the global batch",
        "a step is made of whole micro-batches",
        lambda r, c, d: f"batch.micro_batch={r.batch.smallest} or less",
        _micro_over_global,
    ),
    Refusal(
        "Fewer micro-batches in a step than ranks",
        "the ranks left over would wait in every step",
        _smaller_micro_batch,
        _too_many_ranks,
    ),
    Refusal(
        "A batch ramp that does not rise step by step within the training",
        "each start has to come later than the one before, and before the end",
        lambda r, c, d: "starts of batch.ramp in rising order, at least one step apart, and before the last step",
        _ramp_out_of_order,
    ),
    Refusal(
        "Dropping the last batch of an epoch that has only one",
        "no batch would be left to train on",
        lambda r, c, d: "batch.last_batch=short, or a smaller batch.global_batch",
        _nothing_left,
    ),
    Refusal(
        "More copies of a sample than a batch holds",
        "copies side by side are there to meet in one batch",
        lambda r, c, d: f"data.repeats={r.batch.global_batch} or less",
        _copies_apart,
    ),
    Refusal(
        "The noise scale with one rank and one micro-batch a step",
        "it is measured by comparing the gradient of few samples with that of the whole step",
        lambda r, c, d: f"batch.micro_batch={max(r.batch.smallest // 2, 1)} or less, or more ranks",
        _nothing_to_compare,
    ),
)
