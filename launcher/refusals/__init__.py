"""The combinations that cannot work, as one table: when, because, instead. The docs page is rendered from it.

Nothing is ever adjusted to make it fit. Pure: looks at recipe, cluster and the description of the data, not the disk.
"""

from __future__ import annotations

from collections.abc import Sequence

from megabatch.configs.cluster import Cluster
from megabatch.configs.recipe import Recipe
from megabatch.data.dataset import Dataset
from megabatch.launcher.refusals.batch import BATCH
from megabatch.launcher.refusals.continual import CONTINUAL
from megabatch.launcher.refusals.course import COURSE
from megabatch.launcher.refusals.data import DATA
from megabatch.launcher.refusals.deepspeed import DEEPSPEED
from megabatch.launcher.refusals.distillation import DISTILLATION
from megabatch.launcher.refusals.engines import ENGINES
from megabatch.launcher.refusals.machine import MACHINE
from megabatch.launcher.refusals.norms import NORMS
from megabatch.launcher.refusals.pruning import PRUNING
from megabatch.launcher.refusals.quantization import QUANTIZATION
from megabatch.launcher.refusals.table import Refusal, used_splits
from megabatch.launcher.refusals.targets import TARGETS

__all__ = ["TABLE", "Refusal", "refusals", "used_splits"]

TABLE: tuple[Refusal, ...] = (
    *DATA, *TARGETS, *DISTILLATION, *BATCH, *NORMS, *PRUNING, *QUANTIZATION, *CONTINUAL, *COURSE, *ENGINES,
    *DEEPSPEED, *MACHINE,
)  # fmt: skip


def refusals(recipe: Recipe, cluster: Cluster, dataset: Dataset, table: Sequence[Refusal] = TABLE) -> list[str]:
    """Return one message for each rule that recipe, cluster and data set break together."""
    return [
        f"{seen}: {refusal.because}. Instead: {refusal.instead(recipe, cluster, dataset)}"
        for refusal in table
        for seen in refusal.found(recipe, cluster, dataset)
    ]
