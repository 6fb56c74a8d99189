"""A loss of your own: the squared hinge of the margins (Crammer and Singer 2001, squared)."""

import torch
from torch import Tensor


def squared_hinge(outputs_NK: Tensor, targets: Tensor, margin: float = 1.0) -> Tensor:
    """Return `sum_{k != y} max(0, margin - z_y + z_k)**2 / K` for each sample.

    Targets are labels_N, or with mixup and cutmix distributions_NK: then each class takes part with its share. It must
    be one number a sample: the sum over the global batch, however it is split, is divided by its size elsewhere.
    """
    classes = outputs_NK.shape[1]
    if targets.ndim == 1:
        targets = torch.nn.functional.one_hot(targets, classes)
    shares_NK = targets.to(outputs_NK.dtype)
    # margins_NYK[n, y, k]: by how much class k comes too near to class y
    margins_NYK = (margin - outputs_NK.unsqueeze(2) + outputs_NK.unsqueeze(1)).clamp(min=0) ** 2
    others_YK = 1 - torch.eye(classes, dtype=outputs_NK.dtype, device=outputs_NK.device)
    losses_NY = (margins_NYK * others_YK).sum(dim=2) / classes
    return (losses_NY * shares_NK).sum(dim=1)
