"""The engines a recipe can name: how gradients and parameters are shared among ranks."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from megabatch.configs.base import (
    Choice,
    PositiveInt,
    name_only,
)


class DdpOptions(Choice):
    """What torch's DistributedDataParallel can be told, whoever makes it."""

    name: str
    bucket_megabytes: PositiveInt = 25
    find_unused_parameters: bool = False
    static_graph: bool = False
    gradient_compression: Literal["none", "fp16", "bf16"] = "none"

    @model_validator(mode="after")
    def _one_search_is_enough(self) -> Self:
        if self.static_graph and self.find_unused_parameters:
            raise ValueError("static_graph finds unused parameters by itself: leave find_unused_parameters out")
        return self


class Ddp(DdpOptions):
    """torch DistributedDataParallel: a full copy of the model on every rank.

    `static_graph` promises that every micro-batch goes through the same parameters in the same order.
    `gradient_compression` sends gradients in 16 bits: half the bytes, and rounded sums (docs/engines.md).
    """

    implementation: ClassVar[str] = "megabatch.trainer.engines.ddp:DdpEngine"
    name: Literal["ddp"] = "ddp"


class Accelerate(DdpOptions):
    """DistributedDataParallel as Hugging Face accelerate prepares it; needs `pip install accelerate`.

    `config_file` names a file that `accelerate config` wrote: it must agree with recipe and cluster (docs/engines.md).
    The other keys are those of `ddp`.
    """

    implementation: ClassVar[str] = "megabatch.trainer.engines.accelerate:AccelerateEngine"
    name: Literal["accelerate"] = "accelerate"
    config_file: str | None = None


Engine = Annotated[Ddp | Accelerate, Field(discriminator="name"), BeforeValidator(name_only)]
