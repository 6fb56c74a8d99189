"""The engines a recipe can name: how gradients and parameters are shared among ranks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from megabatch.configs.base import (
    Choice,
    PositiveInt,
    name_only,
)


class Ddp(Choice):
    """torch DistributedDataParallel: a full copy of the model on every rank."""

    name: Literal["ddp"] = "ddp"
    bucket_megabytes: PositiveInt = 25
    find_unused_parameters: bool = False


Engine = Annotated[Ddp, BeforeValidator(name_only)]
