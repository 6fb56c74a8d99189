"""One row of the table of refusals, and what several rows ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from megabatch.configs.cluster import Cluster
from megabatch.configs.recipe import Recipe
from megabatch.data.dataset import Dataset


@dataclass(frozen=True)
class Refusal:
    """One rule. `found` yields what was seen, once for each time it applies; `rule` says it without numbers."""

    rule: str
    because: str
    instead: Callable[[Recipe, Cluster, Dataset], str]
    found: Callable[[Recipe, Cluster, Dataset], Iterator[str]]


def used_splits(recipe: Recipe) -> list[tuple[str, str]]:
    """Return (key, split name) for every split the recipe reads."""
    data = recipe.data
    keys = ("train_split", "validation_split", "test_split")
    return [(f"data.{key}", getattr(data, key)) for key in keys if getattr(data, key) is not None]


def samples_drawn(recipe: Recipe, dataset: Dataset) -> int:
    """Return how many samples an epoch of training draws: every image as often as `data.repeats` says."""
    name = recipe.data.train_split
    return dataset.split(name).samples * recipe.data.repeats if name in dataset.split_names else 0
