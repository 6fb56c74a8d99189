"""Ways to send gradients that do not fit what is computed."""

from __future__ import annotations

from collections.abc import Iterator

from megabatch.configs.cluster import Cluster
from megabatch.configs.engines import DdpOptions
from megabatch.configs.precision import Fp64
from megabatch.configs.recipe import Recipe
from megabatch.data.dataset import Dataset
from megabatch.launcher.refusals.table import Refusal


def _compressed_float64(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    engine = recipe.engine
    if isinstance(engine, DdpOptions) and engine.gradient_compression != "none" and isinstance(recipe.precision, Fp64):
        yield f"engine.gradient_compression={engine.gradient_compression} with precision=fp64"


GRADIENTS: tuple[Refusal, ...] = (
    Refusal(
        "Gradients sent in 16 bits with fp64",
        "fp64 is there for exact comparisons, and the sums would be rounded to three digits",
        lambda r, c, d: "engine.gradient_compression=none, or precision=fp32",
        _compressed_float64,
    ),
)
