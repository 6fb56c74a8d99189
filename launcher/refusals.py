"""The combinations that cannot work, as one table: when, because, instead. The docs page is rendered from it.

Nothing is ever adjusted to make it fit. Pure: looks at recipe, cluster and the description of the data, not the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from megabatch.configs.averaging import Swa
from megabatch.configs.cluster import Cluster, Local
from megabatch.configs.optimizers import Lamb, Lars
from megabatch.configs.precision import Fp32
from megabatch.configs.recipe import Recipe
from megabatch.configs.schedules import Plateau
from megabatch.configs.transforms import never_square
from megabatch.data.dataset import Dataset
from megabatch.data.rate import learning_rate_of
from megabatch.data.steps import steps_of


@dataclass(frozen=True)
class Refusal:
    """One rule. `found` yields what was seen, once for each time it applies; `rule` says it without numbers."""

    rule: str
    because: str
    instead: Callable[[Recipe, Cluster, Dataset], str]
    found: Callable[[Recipe, Cluster, Dataset], Iterator[str]]


def refusals(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> list[str]:
    """Return one message for each rule that recipe, cluster and data set break together."""
    return [
        f"{seen}: {refusal.because}. Instead: {refusal.instead(recipe, cluster, dataset)}"
        for refusal in TABLE
        for seen in refusal.found(recipe, cluster, dataset)
    ]


def used_splits(recipe: Recipe) -> list[tuple[str, str]]:
    """Return (key, split name) for every split the recipe reads."""
    data = recipe.data
    keys = ("train_split", "validation_split", "test_split")
    return [(f"data.{key}", getattr(data, key)) for key in keys if getattr(data, key) is not None]


def _missing_split(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    for key, name in used_splits(recipe):
        if name not in dataset.split_names:
            yield f"{key} is {name!r}, but {dataset.shown} has {', '.join(dataset.split_names) or 'no splits'}"


def _empty_split(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    for key, name in used_splits(recipe):
        if name in dataset.split_names and dataset.split(name).samples == 0:
            yield f"{key}: the split {name!r} of {dataset.shown} has no samples"


def _shared_split(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    for key, name in used_splits(recipe)[1:]:
        if name == recipe.data.train_split:
            yield f"{key} and data.train_split are both {name!r}"


def _label_outside(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    for _, name in used_splits(recipe):
        if name in dataset.split_names and dataset.split(name).samples:
            low, high = dataset.split(name).label_range()
            if low < 0 or high >= len(dataset.classes):
                yield f"split {name!r} has labels {low} to {high}, but there are {len(dataset.classes)} classes"


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


def _draws(recipe: Recipe, dataset: Dataset) -> int:
    name = recipe.data.train_split
    return dataset.split(name).samples * recipe.data.repeats if name in dataset.split_names else 0


def _ramp_out_of_order(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    steps = steps_of(recipe, _draws(recipe, dataset))
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
    draws = _draws(recipe, dataset)
    if recipe.batch.last_batch == "drop" and 0 < draws < recipe.batch.global_batch:
        yield f"batch.last_batch=drop with {draws:,} samples and batch.global_batch={recipe.batch.global_batch}"


def _copies_apart(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if recipe.data.repeats > recipe.batch.global_batch:
        yield f"data.repeats={recipe.data.repeats} > batch.global_batch={recipe.batch.global_batch}"


def _long_warmup(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    steps = steps_of(recipe, _draws(recipe, dataset))
    if steps.samples_per_epoch:
        warmup = learning_rate_of(recipe, steps).warmup_epochs
        if warmup > recipe.epochs:
            yield f"schedule.warmup is {warmup:g} epochs, more than epochs={recipe.epochs}"


def _late_average(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    draws = _draws(recipe, dataset)
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


def _no_trust_ratios(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if recipe.tracking.trust_ratios_every_steps is not None and not isinstance(recipe.optimizer, Lars | Lamb):
        yield f"tracking.trust_ratios_every_steps is set, and optimizer is {recipe.optimizer.name}"


def _many_local_nodes(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if isinstance(cluster.backend, Local) and cluster.nodes > 1:
        yield f"backend local with nodes={cluster.nodes}"


def _tf32_on_cpu(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if isinstance(recipe.precision, Fp32) and recipe.precision.tf32 and cluster.device == "cpu":
        yield "precision.tf32=true with cluster.device=cpu"


def _nothing_to_compare(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    batch = recipe.batch
    if recipe.tracking.noise_scale and cluster.num_ranks == 1 and batch.smallest <= batch.micro_batch:
        yield f"tracking.noise_scale with one rank and one micro-batch a step (batch.micro_batch={batch.micro_batch})"


def _never_square(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    data = recipe.data
    for key, transforms in (("train", data.train_transforms), ("evaluation", data.evaluation_transforms)):
        why = never_square(transforms, data.image_size)
        if why:
            yield f"data.{key}_transforms with data.image_size={data.image_size}: {why}"


def _too_few_streams(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if recipe.data.train_stream is not None:
        streams = len(dataset.split(recipe.data.train_split).shards)
        if streams < cluster.num_ranks:
            yield f"data.train_stream.urls names {streams} streams for {cluster.num_ranks} ranks"


TABLE: tuple[Refusal, ...] = (
    Refusal(
        "A split that the data set does not have",
        "there is nothing to read",
        lambda r, c, d: "name one of them, or write null for validation_split or test_split to do without",
        _missing_split,
    ),
    Refusal(
        "A split without samples",
        "nothing can be trained or measured on it",
        lambda r, c, d: f"import the data again, or look at it with `megabatch data info {d.shown}`",
        _empty_split,
    ),
    Refusal(
        "Training and evaluating on the same split",
        "the accuracy would say nothing about new images",
        lambda r, c, d: "import with `--split train=0.9,validation=0.1`, or write null",
        _shared_split,
    ),
    Refusal(
        "Labels outside the classes",
        "the loss has no output for them",
        lambda r, c, d: (
            f"correct the labels, or list every class in classes.txt and run `megabatch data index {d.shown}`"
        ),
        _label_outside,
    ),
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
        "A warmup longer than the training",
        "the learning rate would never reach its peak",
        lambda r, c, d: f"schedule.warmup={r.epochs} or less",
        _long_warmup,
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
        "Trust ratios of an optimizer without any",
        "only LARS and LAMB, those of this program, have them",
        lambda r, c, d: "tracking.trust_ratios_every_steps=null, or optimizer lars or lamb",
        _no_trust_ratios,
    ),
    Refusal(
        "Several nodes on the local backend",
        "it starts processes on this machine only",
        lambda r, c, d: "cluster.nodes=1, or a cluster file with `backend: {name: slurm, ...}`",
        _many_local_nodes,
    ),
    Refusal(
        "The noise scale with one rank and one micro-batch a step",
        "it is measured by comparing the gradient of few samples with that of the whole step",
        lambda r, c, d: f"batch.micro_batch={max(r.batch.smallest // 2, 1)} or less, or more ranks",
        _nothing_to_compare,
    ),
    Refusal(
        "TF32 on the CPU",
        "TF32 is a format of NVIDIA GPUs (from Ampere on)",
        lambda r, c, d: "precision=fp32, or bf16 for speed",
        _tf32_on_cpu,
    ),
    Refusal(
        "Transforms that leave another size than image_size, whatever the images",
        "every image of a batch has image_size x image_size pixels",
        lambda r, c, d: f"{{name: resize, size: {r.data.image_size}}} or larger, and center_crop after it",
        _never_square,
    ),
    Refusal(
        "Fewer streams than ranks",
        "a stream is read from front to back by one rank, so the others would have nothing to read",
        lambda r, c, d: f"at least {c.num_ranks} shards, or fewer ranks",
        _too_few_streams,
    ),
)
