"""The gradient noise scale, measured while training, from norms of gradients that are there anyway.

McCandlish et al. 2018 (arXiv 1812.06162), appendix A.1. With G the true gradient and S the covariance of the gradient
of one sample, E|G_B|**2 = |G|**2 + tr(S) / B for the mean gradient G_B of B samples. Two sizes of B give both:

    tr(S) = (|G_small|**2 - |G_big|**2) / (1 / B_small - 1 / B_big)
    |G|**2 = |G_big|**2 - tr(S) / B_big

Each is averaged over steps, as the paper says, before the ratio B_simple = tr(S) / |G|**2 is taken. The small gradient
is that of a rank's share before the sum over the ranks, or on a single rank that of its first micro-batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

_SMOOTHING = 0.98  # of both averages: about 50 steps


@dataclass
class NoiseAverages:
    """Running averages of tr(S) and |G|**2, and their common weight, which makes up for the start from 0."""

    trace: float = 0.0
    squared_gradient: float = 0.0
    weight: float = 0.0

    def add(self, small: float, inverse_small: float, big: float, big_batch: int) -> None:
        """Add a step: mean squared norm of the small gradients, mean of 1 / B_small, squared norm of the big one."""
        trace = (small - big) / (inverse_small - 1.0 / big_batch)
        if not math.isfinite(trace):  # a gradient overflowed: the step has no update, and no part in the averages
            return
        self.trace = _SMOOTHING * self.trace + (1 - _SMOOTHING) * trace
        self.squared_gradient = _SMOOTHING * self.squared_gradient + (1 - _SMOOTHING) * (big - trace / big_batch)
        self.weight = _SMOOTHING * self.weight + (1 - _SMOOTHING)

    @property
    def noise_scale(self) -> float | None:
        """Return B_simple in samples; None while noise hides the gradient."""
        return self.trace / self.squared_gradient if self.squared_gradient > 0 and self.trace > 0 else None


def squared_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Return the sum of the squares of all elements, in float64, on the device."""
    norms = torch._foreach_norm(list(tensors))
    return torch.stack(norms).double().square().sum()


def advice(noise_scale: float, global_batch: int) -> str:
    """Say in words what a noise scale means for a batch (McCandlish et al. 2018, section 2.2, equation 2.11).

    With batch B training takes `1 + scale / B` times the fewest steps and `1 + B / scale` times the fewest samples.
    """
    steps, samples = 1 + noise_scale / global_batch, 1 + global_batch / noise_scale
    if global_batch < noise_scale / 2:
        verdict = f"a batch up to {noise_scale / global_batch:.2g} x larger costs little"
    elif global_batch <= 2 * noise_scale:
        verdict = "the batch is about right"
    else:
        verdict = f"a batch {global_batch / noise_scale:.2g} x smaller would need few more steps and far fewer samples"
    return (
        f"gradient noise scale about {noise_scale:,.0f} samples, batch {global_batch:,}: {verdict} "
        f"(about {steps:.2g} x the fewest steps, {samples:.2g} x the fewest samples)"
    )
