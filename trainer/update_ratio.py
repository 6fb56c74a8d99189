"""How far a step moves the weights: ||update|| / ||weights||. About 0.001 is usual.

Measured in steps that are logged only: it takes a copy of the weights before the step, and two reads of them after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn


@torch.no_grad()
def update_ratio(
    parameters: Sequence[nn.Parameter],
    update: Callable[[], None],
    sum_over_ranks: Callable[[torch.Tensor], None] | None = None,
) -> float:
    """Do an update and return its norm relative to that of the weights before; 0 where these are all 0.

    `sum_over_ranks` is given where the parameters are shards of the network's.
    """
    before = [parameter.detach().clone() for parameter in parameters]
    weights = torch.stack(torch._foreach_norm(before)).double().square().sum()
    with torch.enable_grad():
        update()
    moved = torch.stack(torch._foreach_norm(torch._foreach_sub(list(parameters), before))).double().square().sum()
    squares = torch.stack([moved, weights])
    if sum_over_ranks is not None:
        sum_over_ranks(squares)
    moved, weights = squares.unbind()
    return float((moved / weights).sqrt()) if weights > 0 else 0.0
