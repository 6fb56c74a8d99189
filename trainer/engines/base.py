"""What the training step needs of an engine. It knows gradients and ranks; not data, schedules or checkpoints.

Contract: after the backward pass of the last micro-batch of a step, every rank holds the gradient summed over all
micro-batches of all ranks. Not the mean: the step divides by the samples of the global batch, on every engine alike.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import nn


class Engine(Protocol):
    """A network shared by the ranks."""

    network: nn.Module
    """The bare network: what is evaluated and saved."""

    num_ranks: int
    """How many ranks share it."""

    same_number_of_passes: bool
    """Whether all ranks must pass the network equally often: one without a micro-batch passes an empty one."""

    def __call__(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the network's output, logits_NK."""
        ...

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """Return the context of one micro-batch, forward and backward; gradients are summed over ranks in the last."""
        ...

    def forward_only(self) -> AbstractContextManager[None]:
        """Return the context of passes without a backward pass, such as an evaluation."""
        ...

    def take_local_squares(self) -> torch.Tensor | None:
        """Return the sum of squares of this rank's own gradient of the step, if it was asked for, and forget it."""
        ...

    def sum_over_ranks(self, values: torch.Tensor) -> None:
        """Replace `values` by their sum over all ranks."""
        ...
