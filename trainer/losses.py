"""Losses, one value a sample: the step weights and adds them. logits_NK, labels_N to losses_N."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy(label_smoothing: float) -> Loss:
    """Return `-sum_k q_k log p_k`, q = (1 - s) one_hot + s / K (Szegedy et al. 2016, section 7)."""
    return partial(functional.cross_entropy, reduction="none", label_smoothing=label_smoothing)
