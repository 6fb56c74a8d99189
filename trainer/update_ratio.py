"""How far a step moves the weights: ||update|| / ||weights||. About 0.001 is usual.

Measured in steps that are logged only: it takes a copy of the weights before the step, and two reads of them after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn


@torch.no_grad()
def update_ratio(parameters: Sequence[nn.Parameter], update: Callable[[], None]) -> float:
    """Do an update and return its norm relative to that of the weights before; 0 where these are all 0."""
    before = [parameter.detach().clone() for parameter in parameters]
    weights = torch.stack(torch._foreach_norm(before)).double().square().sum()
    with torch.enable_grad():
        update()
    moved = torch.stack(torch._foreach_norm(torch._foreach_sub(list(parameters), before))).double().square().sum()
    return float((moved / weights).sqrt()) if weights > 0 else 0.0
