"""The number formats a recipe can name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from megabatch.configs.base import (
    Choice,
    PositiveFloat,
    PositiveInt,
    name_only,
)


class Fp32(Choice):
    """Everything in float32.

    `tf32: true` lets NVIDIA GPUs multiply in TF32, which has 10 bits of mantissa, and add in float32. Without it
    torch is told not to, whatever its own default is.
    """

    name: Literal["fp32"] = "fp32"
    tf32: bool = False


class Fp64(Choice):
    """Everything in float64: for exact comparisons, not for speed."""

    name: Literal["fp64"] = "fp64"


class Bf16(Choice):
    """Forward under autocast to bfloat16, parameters and optimizer in float32."""

    name: Literal["bf16"] = "bf16"


class Fp16(Choice):
    """Forward under autocast to float16 with dynamic loss scaling (Micikevicius et al. 2018, section 3.2)."""

    name: Literal["fp16"] = "fp16"
    initial_scale: PositiveFloat = 65536.0
    growth_interval: PositiveInt = 2000


class Fp8(Choice):
    """Linear layers multiply in float8 (torchao, one scale for a tensor), all else as in bf16.

    Needs an NVIDIA GPU of compute capability 8.9 or higher, and `pip install torchao`.
    """

    name: Literal["fp8"] = "fp8"


Precision = Annotated[Fp32 | Fp64 | Bf16 | Fp16 | Fp8, Field(discriminator="name"), BeforeValidator(name_only)]
