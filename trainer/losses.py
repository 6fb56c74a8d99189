"""Losses, summed over the samples: the step divides by the size of the global batch. logits_NK, labels_N."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy(label_smoothing: float) -> Loss:
    """Return the sum of `-sum_k q_k log p_k`, q = (1 - s) one_hot + s / K (Szegedy et al. 2016, section 7)."""
    return partial(functional.cross_entropy, reduction="sum", label_smoothing=label_smoothing)
