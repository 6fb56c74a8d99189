"""The layer-wise trust ratio that LARS and LAMB share. A pure function of two norms."""

from __future__ import annotations

import torch


def trust_ratio(
    parameter_norm: torch.Tensor, denominator: torch.Tensor, coefficient: float = 1.0, epsilon: float = 0.0
) -> torch.Tensor:
    """Return `coefficient * ||w|| / (denominator + epsilon)`, and 1 where either norm is zero (nothing to compare).

    LARS (You, Gitman and Ginsburg 2017, equation 6): denominator `||g|| + wd * ||w||`, coefficient eta.
    LAMB (You et al. 2020, algorithm 2): denominator `||r + wd * w||`, coefficient 1.
    The values stay on the device: nothing waits for them.

    >>> trust_ratio(torch.tensor(3.0), torch.tensor(2.0), coefficient=0.5)
    tensor(0.7500)
    """
    ratio = coefficient * parameter_norm / (denominator + epsilon)
    return torch.where((parameter_norm > 0) & (denominator > 0), ratio, torch.ones_like(ratio))
