"""Numbers of few bits that an engine, a precision or another part of the recipe does not allow."""

from __future__ import annotations

from collections.abc import Iterator

from megabatch.configs.cluster import Cluster
from megabatch.configs.engines import Ddp, Fsdp
from megabatch.configs.precision import Fp8
from megabatch.configs.pruning import masked
from megabatch.configs.quantization import has_zero
from megabatch.configs.recipe import Recipe
from megabatch.data.dataset import Dataset
from megabatch.launcher.refusals.table import Refusal


def _never_tried(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if recipe.quantization is None:
        return
    if isinstance(recipe.precision, Fp8):
        yield f"quantization={recipe.quantization.name} with precision=fp8"
    if not isinstance(recipe.engine, Ddp | Fsdp):
        yield f"quantization={recipe.quantization.name} with engine={recipe.engine.name}"
    if recipe.model.compile is not None:
        yield f"quantization={recipe.quantization.name} with model.compile"


def _no_zero(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    quantization = recipe.quantization
    if quantization is not None and masked(recipe.pruning) is not None and not has_zero(quantization):
        assert recipe.pruning is not None
        yield f"pruning.name={recipe.pruning.name} with quantization={quantization.name}"


QUANTIZATION: tuple[Refusal, ...] = (
    Refusal(
        "Quantization with fp8, with a compiled network, or with an engine other than ddp and fsdp",
        "the two were never run together",
        lambda r, c, d: "precision=bf16, engine=ddp or fsdp, and model.compile=null",
        _never_tried,
    ),
    Refusal(
        "Weights that stay zero, quantized to values without a zero",
        "a removed weight would count again, with the size of all others",
        lambda r, c, d: "quantization=ternary, an odd number of levels, or pruning.name=channels",
        _no_zero,
    ),
)
