"""What a recipe asks of the data that the data set cannot give."""

from __future__ import annotations

from collections.abc import Iterator

from megabatch.configs.cluster import Cluster
from megabatch.configs.recipe import Recipe
from megabatch.configs.targets import ClassTarget
from megabatch.configs.transforms import never_square
from megabatch.data.dataset import Dataset
from megabatch.launcher.refusals.table import Refusal, used_splits


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
    if not isinstance(recipe.data.target, ClassTarget):
        return
    for _, name in used_splits(recipe):
        if name in dataset.split_names and dataset.split(name).has_classes:
            low, high = dataset.split(name).label_range()
            if low < 0 or high >= len(dataset.classes):
                yield f"split {name!r} has labels {low} to {high}, but there are {len(dataset.classes)} classes"


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


DATA: tuple[Refusal, ...] = (
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
