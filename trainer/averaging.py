"""An average of the network's weights, updated after steps and put into the network while it is evaluated.

Weights and float buffers (the statistics of batch norm) are averaged; counters are copied. The updates are a function
of the step numbers, so a resumed run has the average of one left alone; the average is part of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from megabatch.configs.averaging import Averaging, Ema
from megabatch.data.steps import Steps
from megabatch.trainer.sharding import cut_like, local

Tensors = dict[str, Tensor]


class WeightAverage:
    """The average of a network's state. `updates` counts how often it was updated; 0 means there is none yet."""

    def __init__(self, network: nn.Module, settings: Averaging, steps: Steps):
        self._settings = settings
        self._live = dict(network.state_dict())  # the network's own tensors, not copies
        self._average = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        self._floats = [name for name, tensor in self._live.items() if tensor.is_floating_point()]
        self._steps = steps
        self.updates = 0

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Take note of the weights after `step` steps."""
        weight = self._weight(step)
        if weight is None:
            return
        averages = [local(self._average[name]) for name in self._floats]
        torch._foreach_lerp_(averages, [local(self._live[name]) for name in self._floats], weight)
        for name in self._live.keys() - set(self._floats):
            self._average[name].copy_(self._live[name])
        self.updates += 1

    def forget(self) -> None:
        """Leave the network as it is from now on: it has got the weights of a checkpoint, or their average."""
        self.updates = 0

    @contextmanager
    def in_network(self) -> Iterator[None]:
        """Let the network have the average for a while, once there is one."""
        if self.updates == 0:
            yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def tensors(self) -> Tensors:
        """Return the average by name, for a checkpoint; empty while there is none."""
        return self._average if self.updates else {}

    @torch.no_grad()
    def load(self, tensors: Tensors, updates: int) -> None:
        """Put back what `tensors` gave; while there is no average, begin at the network's weights as at the start."""
        self.updates = updates
        if not tensors:
            tensors = self._live
        for name, tensor in tensors.items():
            self._average[name].copy_(cut_like(self._average[name], tensor))

    def _weight(self, step: int) -> float | None:
        """Return the share of the new weights in the average, or None if this step has no part in it."""
        if isinstance(self._settings, Ema):
            base = self._settings.base_batch
            decay: float = self._settings.decay ** (self._steps.batch_of(step - 1) / base if base else 1.0)
            return 1.0 - min(decay, (1 + self.updates) / (10 + self.updates))
        start, every = (self._steps.in_epochs(length) for length in (self._settings.start, self._settings.every))
        now, before = ((self._epochs(s) - start) / every for s in (step, step - 1))
        if now < 0 or (before >= 0 and int(now + 1e-9) == int(before + 1e-9)):
            return None
        return 1.0 / (self.updates + 1)

    def _epochs(self, step: int) -> float:
        return self._steps.samples_seen(step) / self._steps.samples_per_epoch

    @torch.no_grad()
    def _swap(self) -> None:
        for name, live in self._live.items():
            own, average = local(live), local(self._average[name])
            kept = own.clone()
            own.copy_(average)
            average.copy_(kept)
