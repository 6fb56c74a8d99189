"""How the weights of convolutions and linear layers begin; biases then begin at 0, norms are left as they are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from megabatch.configs.base import Choice, PositiveFloat, name_only


class Default(Choice):
    """As the model's own code initializes it."""

    name: Literal["default"] = "default"


class UniformWeights(Choice):
    """Uniform in [-limit, limit]."""

    name: Literal["uniform"] = "uniform"
    limit: PositiveFloat


class NormalWeights(Choice):
    """Normal with mean 0."""

    name: Literal["normal"] = "normal"
    std: PositiveFloat


class TruncatedNormal(Choice):
    """Normal with mean 0, drawn again beyond two standard deviations."""

    name: Literal["truncated_normal"] = "truncated_normal"
    std: PositiveFloat = 0.02


class XavierUniform(Choice):
    """Uniform with variance `gain**2 * 2 / (fan_in + fan_out)` (Glorot and Bengio 2010, equation 16)."""

    name: Literal["xavier_uniform"] = "xavier_uniform"


class XavierNormal(Choice):
    """Normal with variance `gain**2 * 2 / (fan_in + fan_out)` (Glorot and Bengio 2010)."""

    name: Literal["xavier_normal"] = "xavier_normal"


class HeUniform(Choice):
    """Uniform with variance `gain**2 / fan` (He et al. 2015, equation 10)."""

    name: Literal["he_uniform"] = "he_uniform"
    fan: Literal["fan_in", "fan_out"] = "fan_out"


class HeNormal(Choice):
    """Normal with variance `gain**2 / fan` (He et al. 2015, equation 10)."""

    name: Literal["he_normal"] = "he_normal"
    fan: Literal["fan_in", "fan_out"] = "fan_out"


class Orthogonal(Choice):
    """Orthogonal rows or columns, times the gain (Saxe et al. 2014)."""

    name: Literal["orthogonal"] = "orthogonal"


Initialization = Annotated[
    Default
    | UniformWeights
    | NormalWeights
    | TruncatedNormal
    | XavierUniform
    | XavierNormal
    | HeUniform
    | HeNormal
    | Orthogonal,
    Field(discriminator="name"),
    BeforeValidator(name_only),
]
