"""What LARS and LAMB share: one tensor after the other is updated, by a rule that the subclass gives.

Tensor by tensor: the trust ratio is per tensor anyway, and on the CPU one tensor's temporaries stay in cache.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import overload

import torch
from torch import Tensor
from typing_extensions import override

from megabatch.trainer.optim.groups import Group


class PerTensorOptimizer(torch.optim.Optimizer):
    """An optimizer whose step is `update_tensor` for every parameter that has a gradient."""

    @abstractmethod
    def update_tensor(self, parameter: Tensor, gradient: Tensor, group: Group) -> None:
        """Update one parameter in place; the gradient must stay as it is."""

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @override
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; return what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update_tensor(parameter, parameter.grad, group)
        return loss
