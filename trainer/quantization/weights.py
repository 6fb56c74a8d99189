"""Which values of few bits stand for a weight: pure functions of it and of the settings, one scale per output channel.

A quantized weight is `multiplier * scale`: one product, so that whoever keeps multipliers and scales has the weight bit
for bit. Weights have shape (outputs, ...); multipliers the same, scales (outputs,).
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import torch

from megabatch.configs.quantization import AnyQuantization, Binary, Levels, Ternary

INT8_MOST = 127  # and -127: symmetric, so that 0 is 0 and a sign can change
_THRESHOLD = 0.7
_QUANTILES = 20_000


class QuantizedWeight(NamedTuple):
    """A weight of few bits. Multipliers are integers, but for an even number of levels, whose are halves between."""

    multipliers: torch.Tensor
    scales: torch.Tensor

    def values(self) -> torch.Tensor:
        """Return the weight as the network computes with it."""
        return self.multipliers * per_channel(self.scales, self.multipliers)


def quantized(weight: torch.Tensor, settings: AnyQuantization) -> QuantizedWeight:
    """Return the values of few bits that stand for a weight."""
    if isinstance(settings, Binary):
        return QuantizedWeight(torch.where(weight >= 0, 1.0, -1.0).to(weight.dtype), _mean_size(weight))
    if isinstance(settings, Ternary):
        return _ternary(weight)
    if isinstance(settings, Levels):
        return _levels(weight, settings.count)
    scales = _not_zero(weight.abs().flatten(1).amax(dim=1) / INT8_MOST)
    multipliers = (weight / per_channel(scales, weight)).round().clamp(-INT8_MOST, INT8_MOST)
    return QuantizedWeight(multipliers, scales)


def straight_through(weight: torch.Tensor, settings: AnyQuantization) -> torch.Tensor:
    """Return the quantized weight, with the gradient of the weight itself (Bengio et al. 2013; Zhou et al. 2016).

    The difference that is added is exactly 0, so the forward pass has the quantized values bit for bit.
    """
    return quantized(weight.detach(), settings).values() + (weight - weight.detach())


def num_values(settings: AnyQuantization) -> int:
    """Return how many values a weight of a channel can have.

    >>> num_values(Ternary())
    3
    """
    if isinstance(settings, Levels):
        return settings.count
    return {"binary": 2, "ternary": 3}.get(settings.name, 2 * INT8_MOST + 1)


def per_channel(scales: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return scales with as many dimensions as the weight."""
    return scales.view(-1, *[1] * (weight.dim() - 1))


def _ternary(weight: torch.Tensor) -> QuantizedWeight:
    """Li et al. 2016, equations 3 to 6: threshold 0.7 * E|w|, scale E(|w| where |w| > threshold).

    Theirs is one for a layer, ours for an output channel, as in XNOR-Net: what follows multiplies channels anyway.
    """
    sizes = weight.abs()
    kept = sizes > per_channel(_THRESHOLD * _mean_size(weight), weight)
    count = kept.flatten(1).sum(dim=1).clamp(min=1)
    scales = (sizes * kept).flatten(1).sum(dim=1) / count
    return QuantizedWeight(weight.sign() * kept, scales)


def _levels(weight: torch.Tensor, levels: int) -> QuantizedWeight:
    """`levels` values at distance s: ..., -s, 0, s, ... or, of an even number, ..., -s/2, s/2, ...

    s is `best_step(levels)` standard deviations, and of normally distributed weights the standard deviation is
    E|w| * sqrt(pi / 2), which a few large weights change less than they change the root of the mean square.
    """
    scales = _not_zero(_mean_size(weight) * (math.sqrt(math.pi / 2) * best_step(levels)))
    steps = weight / per_channel(scales, weight)
    if levels % 2:
        return QuantizedWeight(steps.round().clamp(-(levels // 2), levels // 2), scales)
    return QuantizedWeight(steps.floor().clamp(-(levels // 2), levels // 2 - 1) + 0.5, scales)


@lru_cache
def best_step(levels: int) -> float:
    """Return the distance of evenly spaced values with the least mean square error for a standard normal variable.

    Max 1960, "Quantizing for minimum distortion", table II: 1.596 for 2, 1.224 for 3, 0.9957 for 4, 0.3352 for 16.

    >>> [round(best_step(levels), 2) for levels in (2, 3, 4, 16)]
    [1.6, 1.22, 1.0, 0.34]
    """
    normal = NormalDist()
    values = torch.tensor(
        [normal.inv_cdf((number + 0.5) / _QUANTILES) for number in range(_QUANTILES // 2, _QUANTILES)],
        dtype=torch.float64,
    )

    def error(step: float) -> float:
        half = 0.0 if levels % 2 else 0.5
        nearest = ((values / step - half).round() + half).clamp(max=(levels - 1) / 2)
        return float((values - step * nearest).square().mean())

    low, high = 1e-3, 2.0
    for _ in range(60):  # the error has one minimum
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if error(left) < error(right) else (left, high)
    return (low + high) / 2


def _mean_size(weight: torch.Tensor) -> torch.Tensor:
    return weight.abs().flatten(1).mean(dim=1)


def _not_zero(scales: torch.Tensor) -> torch.Tensor:
    """A channel of zeros has any scale."""
    return torch.where(scales > 0, scales, torch.ones_like(scales))
