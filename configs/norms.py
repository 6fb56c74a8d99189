"""What a recipe can ask of the batch norms of a network: whose statistics they normalize with, and which they keep.

Without a word every micro-batch is normalized by itself, and the running statistics follow the training.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from megabatch.configs.base import Choice, Frozen, PositiveInt, name_only


class GhostNorm(Choice):
    """Every `samples` samples of a micro-batch are normalized by themselves (Hoffer et al. 2017, algorithm 1).

    `samples` has to divide `batch.micro_batch`. The rest of a short micro-batch is a smaller group.
    """

    name: Literal["ghost"] = "ghost"
    samples: PositiveInt


class SynchronizedNorm(Choice):
    """One micro-batch of each rank is normalized together: the result depends on the number of ranks."""

    name: Literal["synchronized"] = "synchronized"


class FrozenNorm(Choice):
    """Normalized with the running statistics that the weights came with, in training too; they do not move.

    `affine: frozen` also keeps scale and shift as they are.
    """

    name: Literal["frozen"] = "frozen"
    affine: Literal["frozen", "trained"] = "frozen"


BatchNorm = Annotated[
    GhostNorm | SynchronizedNorm | FrozenNorm, Field(discriminator="name"), BeforeValidator(name_only)
]


class PreciseStatistics(Frozen):
    """Before an evaluation the running statistics become those of training images (Wu and Johnson 2021, section 3).

    They are taken, with the weights as they are, over the first whole steps of training that have at least `samples`
    samples, with the transforms of training, without mixup and the like.
    """

    samples: PositiveInt = 16_384
