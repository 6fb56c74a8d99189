"""What does not fit the target of the training: losses, metrics, smoothing and mixing made for another kind."""

from __future__ import annotations

from collections.abc import Iterator

from megabatch.configs.batch_transforms import Cutmix, MixupOrCutmix
from megabatch.configs.cluster import Cluster
from megabatch.configs.losses import BinaryCrossEntropy, CrossEntropy, Focal
from megabatch.configs.recipe import Recipe
from megabatch.configs.targets import METRICS_OF, ClassTarget, NumbersTarget, main_metric
from megabatch.data.dataset import Dataset
from megabatch.launcher.refusals.table import Refusal

_FITTING = {
    "labels": "loss=binary_cross_entropy or focal",
    "numbers": "loss=mean_squared_error, mean_absolute_error or huber",
}


def _wrong_loss(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    target, loss = recipe.data.target, recipe.loss
    if isinstance(target, ClassTarget):
        return
    of_classes = isinstance(loss, BinaryCrossEntropy | Focal) and isinstance(target, NumbersTarget)
    if isinstance(loss, CrossEntropy) or of_classes:
        yield f"loss is {loss.name}, and data.target is {target.name}"


def _wrong_metric(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if recipe.metric not in METRICS_OF[recipe.data.target.name]:
        yield f"evaluation.metric is {recipe.metric}, and data.target is {recipe.data.target.name}"


def _wrong_smoothing(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    smoothing = recipe.regularization.label_smoothing
    if smoothing and not isinstance(recipe.data.target, ClassTarget):
        yield f"regularization.label_smoothing is {smoothing:g}, and data.target is {recipe.data.target.name}"


def _cut_numbers(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    for transform in recipe.data.batch_transforms:
        if isinstance(transform, Cutmix | MixupOrCutmix) and isinstance(recipe.data.target, NumbersTarget):
            yield f"data.batch_transforms has {transform.name}, and data.target is numbers"


TARGETS: tuple[Refusal, ...] = (
    Refusal(
        "A loss that does not fit the target",
        "it compares the outputs with another kind of target",
        lambda r, c, d: _FITTING[r.data.target.name],
        _wrong_loss,
    ),
    Refusal(
        "A metric that the target does not have",
        "no evaluation would give it",
        lambda r, c, d: f"evaluation.metric={main_metric(r.data.target)}, or null, which is the same",
        _wrong_metric,
    ),
    Refusal(
        "Label smoothing where a sample has no one class",
        "it spreads the share of one class over all of them",
        lambda r, c, d: "regularization.label_smoothing=0",
        _wrong_smoothing,
    ),
    Refusal(
        "Cutmix with numbers as the target",
        "a number of an image does not go by the area that is left of it",
        lambda r, c, d: "mixup, which mixes the numbers as it does the images",
        _cut_numbers,
    ),
)
