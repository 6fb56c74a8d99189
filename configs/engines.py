"""The engines a recipe can name: how gradients and parameters are shared among ranks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from megabatch.configs.base import (
    Choice,
    PositiveInt,
    name_only,
)


class Ddp(Choice):
    """torch DistributedDataParallel: a full copy of the model on every rank."""

    implementation = "megabatch.trainer.engines.ddp:DdpEngine"
    name: Literal["ddp"] = "ddp"
    bucket_megabytes: PositiveInt = 25
    find_unused_parameters: bool = False


class Fsdp(Choice):
    """torch FSDP2: parameters, gradients and the optimizer's state are cut among the ranks, and put together in groups.

    A group is a module with `min_parameters` or more, or one that a pattern of `wrap` names (`blocks.*`).
    `reshard_after_forward: false` keeps the parameters together from the forward to the backward pass: less to send,
    more memory. `reduce_every_micro_batch` sums gradients after each micro-batch instead of once a step: more to send,
    less memory. `parameter_dtype: bf16` sends parameters in 16 bits (beside `precision: bf16`; those of norms stay in
    32), `reduce_dtype` is what gradients are summed in.
    """

    implementation = "megabatch.trainer.engines.fsdp:FsdpEngine"
    name: Literal["fsdp"] = "fsdp"
    min_parameters: PositiveInt = 1_000_000
    wrap: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    reshard_after_forward: bool = True
    reduce_every_micro_batch: bool = False
    parameter_dtype: Literal["bf16"] | None = None
    reduce_dtype: Literal["fp32", "bf16"] | None = None


Engine = Annotated[Ddp | Fsdp, Field(discriminator="name"), BeforeValidator(name_only)]
