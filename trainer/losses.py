"""Losses of logits_NK, one for each sample: the step weights and adds them.

Targets are labels_N (int64), or targets_NK: a distribution over the classes for each sample, as mixup makes them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # logits_NK, targets -> losses_N


def cross_entropy(label_smoothing: float) -> Loss:
    """Return `-sum_k q_k log p_k` with q = (1 - s) target + s / K (Szegedy et al. 2016, section 7)."""
    return partial(functional.cross_entropy, reduction="none", label_smoothing=label_smoothing)
