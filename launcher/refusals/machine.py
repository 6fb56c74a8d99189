"""What the machines of the cluster file cannot do."""

from __future__ import annotations

from collections.abc import Iterator

from megabatch.configs.cluster import Cluster, Local
from megabatch.configs.precision import Fp8, Fp32
from megabatch.configs.recipe import Recipe
from megabatch.data.dataset import Dataset
from megabatch.launcher.refusals.table import Refusal


def _many_local_nodes(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if isinstance(cluster.backend, Local) and cluster.nodes > 1:
        yield f"backend local with nodes={cluster.nodes}"


def _tf32_on_cpu(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if isinstance(recipe.precision, Fp32) and recipe.precision.tf32 and cluster.device == "cpu":
        yield "precision.tf32=true with cluster.device=cpu"


def _fp8_on_cpu(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if isinstance(recipe.precision, Fp8) and cluster.device == "cpu":
        yield "precision=fp8 with cluster.device=cpu"


MACHINE: tuple[Refusal, ...] = (
    Refusal(
        "Several nodes on the local backend",
        "it starts processes on this machine only",
        lambda r, c, d: (
            "cluster.nodes=1, or a cluster file with `backend: {name: slurm, ...}`, `{name: ssh, ...}` or "
            "`{name: torchrun, ...}`"
        ),
        _many_local_nodes,
    ),
    Refusal(
        "TF32 on the CPU",
        "TF32 is a format of NVIDIA GPUs (from Ampere on)",
        lambda r, c, d: "precision=fp32, or bf16 for speed",
        _tf32_on_cpu,
    ),
    Refusal(
        "FP8 on the CPU",
        "its products need an NVIDIA GPU of compute capability 8.9 or higher (L40S, H100)",
        lambda r, c, d: "precision=bf16, or a cluster with such GPUs",
        _fp8_on_cpu,
    ),
)
