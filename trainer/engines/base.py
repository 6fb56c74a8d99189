"""What the training step needs of an engine. It knows gradients and ranks; not data, schedules or checkpoints.

Contract: after the backward pass of the last micro-batch of a step, every rank holds the gradient summed over all
micro-batches of all ranks. Not the mean: the step divides by the samples of the global batch, on every engine alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn

from megabatch.configs.recipe import Recipe
from megabatch.trainer.optim.state import load_optimizer, optimizer_numbers, optimizer_tensors
from megabatch.trainer.precision import PrecisionPolicy

Tensors = dict[str, torch.Tensor]
_NOTHING = nullcontext()


class Engine(Protocol):
    """A network shared by the ranks."""

    network: nn.Module
    """The bare network: what is evaluated and saved."""

    num_ranks: int
    """How many ranks share it."""

    same_number_of_passes: bool
    """Whether all ranks must pass the network equally often: one without a micro-batch passes an empty one."""
    sharded: bool
    """Whether what `held` gives are flat shards, so that a norm is a sum over ranks. DTensors do that themselves."""

    def prepare(self, optimizer: torch.optim.Optimizer, recipe: Recipe, precision: PrecisionPolicy) -> None:
        """Get to know the optimizer, once, before anything else is made of the network's parameters."""
        ...

    def held(self, parameters: Sequence[nn.Parameter]) -> tuple[nn.Parameter, ...]:
        """Return what has the gradients of these parameters as `.grad` after a step's last backward pass."""
        ...

    def __call__(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the network's output, logits_NK."""
        ...

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """Return the context of one micro-batch, forward and backward; gradients are summed over ranks in the last."""
        ...

    def forward_only(self) -> AbstractContextManager[Any]:
        """Return the context of passes without a backward pass, such as an evaluation."""
        ...

    def backward(self, precision: PrecisionPolicy, losses_N: torch.Tensor, factors_N: torch.Tensor) -> None:
        """Add the gradient of `(losses_N * factors_N).sum()`, times the loss scale if there is one."""
        ...

    def step(self, precision: PrecisionPolicy, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimizer step with the gradient in what `held` gave."""
        ...

    def pass_over(self) -> None:
        """Forget the gradient, where it is kept elsewhere than in what `held` gave."""
        ...

    def take_local_squares(self) -> torch.Tensor | None:
        """Return the sum of squares of this rank's own gradient of the step, if it was asked for, and forget it."""
        ...

    def sum_over_ranks(self, values: torch.Tensor) -> None:
        """Replace `values` by their sum over all ranks."""
        ...

    def network_tensors(self) -> Tensors:
        """Return the network's state by name, whole or as DTensors; every rank must call this together."""
        ...

    def load_network(self, tensors: Tensors) -> None:
        """Put back what `network_tensors` gave, of any engine; every rank must call this together."""
        ...

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> tuple[Tensors, dict[str, Any]]:
        """Return the optimizer's tensors and numbers by parameter name; every rank must call this together.

        Rank 0 gets them whole; what others get is not to be used.
        """
        ...

    def load_optimizer(self, optimizer: torch.optim.Optimizer, tensors: Tensors, numbers: dict[str, Any]) -> None:
        """Put back what `optimizer_state` gave, of any engine."""
        ...


class EngineBase:
    """What engines have in common: those whose ranks each hold everything leave it as it is, others override it."""

    network: nn.Module
    num_ranks: int
    same_number_of_passes = False
    sharded = False

    def prepare(self, optimizer: torch.optim.Optimizer, recipe: Recipe, precision: PrecisionPolicy) -> None:
        """Do nothing: the optimizer works on the network's own parameters."""

    def held(self, parameters: Sequence[nn.Parameter]) -> tuple[nn.Parameter, ...]:
        """Return the parameters themselves."""
        return tuple(parameters)

    def backward(self, precision: PrecisionPolicy, losses_N: torch.Tensor, factors_N: torch.Tensor) -> None:
        """Add the gradient."""
        precision.backward(losses_N, factors_N)

    def step(self, precision: PrecisionPolicy, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimizer step."""
        precision.step(optimizer)

    def pass_over(self) -> None:
        """Do nothing: the gradient is nowhere else."""

    def take_local_squares(self) -> torch.Tensor | None:
        """Return None: they are not measured."""
        return None

    def sum_over_ranks(self, values: torch.Tensor) -> None:
        """Sum in place."""
        if self.num_ranks > 1:
            dist.all_reduce(values)

    def forward_only(self) -> AbstractContextManager[Any]:
        """Return a context that does nothing."""
        return _NOTHING

    def network_tensors(self) -> Tensors:
        """Return the network's own tensors, not copies."""
        return dict(self.network.state_dict())

    def load_network(self, tensors: Tensors) -> None:
        """Load them."""
        self.network.load_state_dict(tensors)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> tuple[Tensors, dict[str, Any]]:
        """Return the optimizer's own tensors, and its numbers."""
        return optimizer_tensors(optimizer), optimizer_numbers(optimizer)

    def load_optimizer(self, optimizer: torch.optim.Optimizer, tensors: Tensors, numbers: dict[str, Any]) -> None:
        """Load them."""
        load_optimizer(optimizer, tensors, numbers)


@contextmanager
def without_a_trace(network: nn.Module) -> Iterator[None]:
    """Return the context of passes that are only tried: afterwards no gradient is left, and buffers are as before."""
    buffers = [buffer.clone() for buffer in network.buffers()]
    yield
    network.zero_grad(set_to_none=True)
    for buffer, before in zip(network.buffers(), buffers, strict=True):
        buffer.copy_(before)
