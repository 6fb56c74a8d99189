"""How far a step moves the weights: ||update|| / ||weights||. About 0.001 is usual.

Measured in steps that are logged only: it takes a copy of the weights before the step, and two reads of them after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from megabatch.trainer.optim.trust_ratio import norms
from megabatch.trainer.sharding import is_sharded, local, norms_over_ranks


@torch.no_grad()
def update_ratio(
    parameters: Sequence[nn.Parameter],
    update: Callable[[], None],
    sum_over_ranks: Callable[[torch.Tensor], None] | None = None,
) -> float:
    """Do an update and return its norm relative to that of the weights before; 0 where these are all 0.

    `sum_over_ranks` is given where the parameters are shards of the network's.
    """
    own = [local(parameter.detach()) for parameter in parameters]
    before = [part.clone() for part in own]
    with torch.enable_grad():
        update()
    sharded = any(is_sharded(parameter) for parameter in parameters)
    lengths = norms_over_ranks if sharded else norms
    squares = torch.stack([lengths(each).double().square().sum() for each in (torch._foreach_sub(own, before), before)])
    if sum_over_ranks is not None:
        sum_over_ranks(squares)
    moved, weights = squares.unbind()
    return float((moved / weights).sqrt()) if weights > 0 else 0.0
