"""Parameters that are frozen at first and trained from a step on (`frozen_until` of a group).

Their gradient is worked out from the beginning, as engines settle once and for all which gradients they sum, and is
thrown away until then: the optimizer sees neither them nor their group, so its state for them begins at that step. When
that is follows from the number of the step alone.
"""

from __future__ import annotations

import torch

from megabatch.data.steps import Steps
from megabatch.trainer.optim.groups import Group


class Thaw:
    """Holds back groups of an optimizer until their step."""

    def __init__(self, optimizer: torch.optim.Optimizer, steps: Steps):
        self._optimizer = optimizer
        self._first_steps = [_first_step(group, steps) for group in optimizer.param_groups]
        self._all: list[Group] = []

    @property
    def last(self) -> int:
        """Return the first step of which all are part; 0 if none was ever frozen."""
        return max(self._first_steps)

    def hold_back(self, step: int) -> None:
        """Before what is done to the gradient of a step: leave what is still frozen without one, and out of sight."""
        self._all = self._optimizer.param_groups
        for group, first in zip(self._all, self._first_steps, strict=True):
            if step < first:
                for parameter in group["params"]:
                    parameter.grad = None
        self._optimizer.param_groups = [
            group for group, first in zip(self._all, self._first_steps, strict=True) if step >= first
        ]

    def show_all(self) -> None:
        """After the update: let the optimizer have all its groups again, as checkpoints save them."""
        self._optimizer.param_groups = self._all


def thaw_of(optimizer: torch.optim.Optimizer, steps: Steps) -> Thaw | None:
    """Return what holds back the groups that are frozen at first; None if there are none."""
    thaw = Thaw(optimizer, steps)
    return thaw if thaw.last else None


def _first_step(group: Group, steps: Steps) -> int:
    length = group.get("frozen_until")
    if length is None:
        return 0
    return steps.step_at(round(steps.in_epochs(length) * steps.samples_per_epoch))
