"""What stages of continual learning, and what keeps them from forgetting, do not go together with."""

from __future__ import annotations

from collections.abc import Iterator

from megabatch.configs.cluster import Cluster
from megabatch.configs.distillation import form_of
from megabatch.configs.engines import DeepSpeed
from megabatch.configs.recipe import Recipe
from megabatch.data.dataset import Dataset
from megabatch.launcher.refusals.table import Refusal


def _asks_for_ewc(recipe: Recipe) -> str | None:
    """Return the key that asks for elastic weight consolidation."""
    if recipe.regularization.ewc is not None:
        return "regularization.ewc"
    return "continual.ewc" if recipe.continual is not None and recipe.continual.ewc is not None else None


def _own_copies(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    key = _asks_for_ewc(recipe)
    if key is not None and isinstance(recipe.engine, DeepSpeed):
        yield f"{key} and engine=deepspeed"


def _no_probabilities(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    settings = recipe.continual
    if settings is not None and settings.ewc is not None and form_of(recipe.data.target, recipe.loss) != "softmax":
        yield f"continual.ewc and loss={recipe.loss.name}"


def _not_watched(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    watched = ("local", "ssh", *(("accelerate", "deepspeed") if cluster.nodes == 1 else ()))
    if recipe.continual is not None and cluster.backend.name not in watched:
        yield f"continual, and cluster {cluster.name} has backend {cluster.backend.name}"


def _teacher_of_few_bits(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if recipe.quantization is not None and recipe.continual is not None and recipe.continual.lwf is not None:
        yield f"continual.lwf and quantization={recipe.quantization.name}"


CONTINUAL: tuple[Refusal, ...] = (
    Refusal(
        "Elastic weight consolidation with DeepSpeed",
        "it has summed and cut the gradients before the penalty could be added to them",
        lambda r, c, d: "engine=ddp or engine=fsdp",
        _own_copies,
    ),
    Refusal(
        "Elastic weight consolidation with a loss that is no cross-entropy",
        "what matters to a network is measured by the probabilities that its softmax gives",
        lambda r, c, d: "loss=cross_entropy, or continual.ewc=null",
        _no_probabilities,
    ),
    Refusal(
        "Learning without forgetting with quantization",
        "the stage before teaches, and a teacher computes in full precision",
        lambda r, c, d: "continual.lwf=null and continual.replay={samples: 2000}, or quantize after the last stage",
        _teacher_of_few_bits,
    ),
    Refusal(
        "Stages with a backend that does not wait for the end of a job",
        "a stage begins with the network that the stage before it ends with",
        lambda r, c, d: (
            "backend: local or ssh. Within an allocation of Slurm, call `megabatch launch` in the batch script, with a "
            "cluster file whose backend is local (one node) or ssh (several)"
        ),
        _not_watched,
    ),
)
