"""Which weights stay, as masks: True stays, False is removed. Pure functions of the weights; ties go by position."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from megabatch.configs.pruning import Scope

Tensors = dict[str, torch.Tensor]


def magnitude_masks(weights: Mapping[str, torch.Tensor], sparsity: float, scope: Scope) -> Tensors:
    """Return masks without the smallest weights: a share `sparsity` of all of them, or of each tensor (`layer`).

    Han et al. 2015, section 3.1 (each layer); Zhu and Gupta 2017, section 3. Exactly `removed(sparsity, total)` are
    False; of equal ones those that come first go first.
    """
    if scope == "layer":
        return {name: _without_smallest(weight.flatten(), sparsity).view_as(weight) for name, weight in weights.items()}
    together = torch.cat([weight.flatten() for weight in weights.values()])
    parts = torch.split(_without_smallest(together, sparsity), [weight.numel() for weight in weights.values()])
    return {name: part.view_as(weights[name]).clone() for name, part in zip(weights, parts, strict=True)}


def removed(sparsity: float, total: int) -> int:
    """Return how many of `total` weights are removed.

    >>> removed(0.5, 5)
    3
    """
    return math.floor(sparsity * total + 0.5)


def _without_smallest(values: torch.Tensor, sparsity: float) -> torch.Tensor:
    mask = torch.ones_like(values, dtype=torch.bool)
    mask[torch.argsort(values.abs(), stable=True)[: removed(sparsity, values.numel())]] = False
    return mask


def n_of_m_mask(weight: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """Return a mask that leaves the n largest of every m weights along dimension 1, the inputs of a layer.

    Mishra et al. 2021, section 3 (2:4), who lay the groups along the input channels of a convolution as well. `weight`
    has shape (outputs, inputs, ...), and m divides the inputs.
    """
    last = weight.movedim(1, -1)
    groups = last.reshape(*last.shape[:-1], -1, m)
    places = torch.argsort(torch.argsort(groups.abs(), dim=-1, descending=True, stable=True), dim=-1)
    mask = places < n
    return mask.flatten(-2).movedim(-1, 1).contiguous()
