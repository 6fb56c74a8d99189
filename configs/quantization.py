"""How a network is trained for numbers of few bits: which values its weights, and of int8 its activations, may have.

The arithmetic is in trainer/quantization; here are its settings.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter

from megabatch.configs.base import Choice, name_only


class Int8(Choice):
    """8 bits for weights, one scale per output channel, and for activations, one scale per tensor.

    What `megabatch quantize` then writes computes in 8 bits what was trained. `keep` has patterns of names of layers
    (`fc`, `stages.0.*`) that stay in full precision; `keep_ends` keeps the first and the last layer.
    """

    name: Literal["int8"] = "int8"
    keep: tuple[str, ...] = ()
    keep_ends: bool = False


class Binary(Choice):
    """Weights of two values, -s and s; s is the mean of |w| over an output channel (XNOR-Net, Rastegari et al. 2016).

    `clip_weights` keeps the full-precision weights behind them within [-1, 1] (BinaryConnect, Courbariaux et al. 2015).
    The first and the last layer and those that `keep` names stay in full precision.
    """

    name: Literal["binary"] = "binary"
    clip_weights: bool = False
    keep: tuple[str, ...] = ()
    keep_ends: bool = True


class Ternary(Choice):
    """Weights of three values, -s, 0 and s (Li et al. 2016), in each output channel.

    What is at most 0.7 times the mean of |w| becomes 0, and s is the mean of |w| over the rest. The first and the last
    layer and those that `keep` names stay in full precision.
    """

    name: Literal["ternary"] = "ternary"
    keep: tuple[str, ...] = ()
    keep_ends: bool = True


class Levels(Choice):
    """Weights of `count` evenly spaced values around 0; an even number of them has no 0.

    Their distance is that of the best such values for normally distributed weights (Max 1960), for each output channel
    from the mean of |w|. The first and the last layer and those that `keep` names stay in full precision.
    """

    name: Literal["levels"] = "levels"
    count: Annotated[int, Field(ge=2, le=256)]
    keep: tuple[str, ...] = ()
    keep_ends: bool = True


AnyQuantization = Int8 | Binary | Ternary | Levels
Quantization = Annotated[AnyQuantization, Field(discriminator="name"), BeforeValidator(name_only)]


def has_zero(quantization: AnyQuantization) -> bool:
    """Return whether 0 is among the values of a weight."""
    return not isinstance(quantization, Binary) and not (
        isinstance(quantization, Levels) and quantization.count % 2 == 0
    )


def quantization_of(values: dict[str, Any]) -> AnyQuantization:  # Any: JSON
    """Return the settings that were written as plain values."""
    found: AnyQuantization = TypeAdapter(Quantization).validate_python(values, strict=False)  # a list is a tuple
    return found
