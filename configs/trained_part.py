"""Which part of a network is trained at all."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from megabatch.configs.base import Choice, name_only


class TrainAll(Choice):
    """Everything, but for what `optimizer.groups` and `batch_norm` freeze."""

    name: Literal["all"] = "all"


class TrainHead(Choice):
    """Only the head, a linear probe: everything else stays as `pretrained` made it, the statistics of batch norms too.

    The head is what timm calls the classifier of a model; of other models the parameters whose name `match` fits.
    """

    name: Literal["head"] = "head"
    match: Annotated[str, Field(min_length=1)] | None = None


TrainedPart = Annotated[TrainAll | TrainHead, Field(discriminator="name"), BeforeValidator(name_only)]
