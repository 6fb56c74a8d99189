"""What a training with teachers cannot make use of. Teachers that do not fit are refused in launcher/teachers.py."""

from __future__ import annotations

from collections.abc import Iterator

from megabatch.configs.cluster import Cluster
from megabatch.configs.distillation import form_of
from megabatch.configs.losses import CrossEntropy
from megabatch.configs.recipe import Recipe
from megabatch.data.dataset import Dataset
from megabatch.launcher.refusals.table import Refusal


def _softened_numbers(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    settings = recipe.distillation
    compares_outputs = form_of(recipe.data.target, recipe.loss) == "squared_error"
    if settings is not None and compares_outputs and settings.temperature != 1:
        yield f"distillation.temperature={settings.temperature:g} with loss={recipe.loss.name}"


def _loss_without_part(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if recipe.distillation is None or recipe.distillation.share < 1:
        return
    if recipe.regularization.label_smoothing:
        yield f"distillation.share=1 with regularization.label_smoothing={recipe.regularization.label_smoothing:g}"
    if isinstance(recipe.loss, CrossEntropy) and recipe.loss.class_weights is not None:
        yield "distillation.share=1 with loss.class_weights"


def _known_class(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    settings, train = recipe.distillation, recipe.data.train_split
    if settings is None or settings.loss_over == "all" or train not in dataset.split_names:
        return
    counts = dataset.split(train).label_counts
    known = [number for number in settings.outputs or () if isinstance(number, int) and counts.get(number)]
    if known:
        yield f"distillation.loss_over=other, and there are training samples of {dataset.classes[known[0]]}"
    if isinstance(recipe.loss, CrossEntropy) and recipe.loss.class_weights is not None:
        yield "distillation.loss_over=other with loss.class_weights"


DISTILLATION: tuple[Refusal, ...] = (
    Refusal(
        "A temperature where outputs are compared as they are",
        "there is no softmax or sigmoid to soften",
        lambda r, c, d: "distillation.temperature=1",
        _softened_numbers,
    ),
    Refusal(
        "Settings of the recipe's own loss where the teachers are all of the loss",
        "that loss has no part in the training",
        lambda r, c, d: "distillation.share below 1, or leave it out",
        _loss_without_part,
    ),
    Refusal(
        "A loss over the classes that the teachers do not know, where samples or weights are those of others",
        "that loss has no output for a class that a teacher knows",
        lambda r, c, d: "distillation.loss_over=all",
        _known_class,
    ),
)
