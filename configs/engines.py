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


class Fsdp(Choice):
    """torch FSDP2: parameters, gradients and the optimizer's state are cut among the ranks, and put together in groups.

    A group is a module with `min_parameters` or more, or one that a pattern of `wrap` names (`blocks.*`).
    `reshard_after_forward: false` keeps the parameters together from the forward to the backward pass: less to send,
    more memory. `reduce_every_micro_batch` sums gradients after each micro-batch instead of once a step: more to send,
    less memory. `parameter_dtype: bf16` sends parameters in 16 bits (beside `precision: bf16`; those of norms stay in
    32), `reduce_dtype` is what gradients are summed in.
    """

    implementation: ClassVar[str] = "megabatch.trainer.engines.fsdp:FsdpEngine"
    name: Literal["fsdp"] = "fsdp"
    min_parameters: PositiveInt = 1_000_000
    wrap: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    reshard_after_forward: bool = True
    reduce_every_micro_batch: bool = False
    parameter_dtype: Literal["bf16"] | None = None
    reduce_dtype: Literal["fp32", "bf16"] | None = None


class Accelerate(DdpOptions):
    """DistributedDataParallel as Hugging Face accelerate prepares it; needs `pip install accelerate`.

    `config_file` names a file that `accelerate config` wrote: it must agree with recipe and cluster (docs/engines.md).
    The other keys are those of `ddp`.
    """

    implementation: ClassVar[str] = "megabatch.trainer.engines.accelerate:AccelerateEngine"
    name: Literal["accelerate"] = "accelerate"
    config_file: str | None = None


Engine = Annotated[Ddp | Fsdp | Accelerate, Field(discriminator="name"), BeforeValidator(name_only)]
