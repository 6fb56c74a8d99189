"""Batch-norm running statistics that do not depend on the number of ranks: updated once a step from all micro-batches.

Each micro-batch is its own "ghost batch" (Hoffer et al. 2017). With momentum 1 the network's own buffers hold exactly
the statistics of the micro-batch just seen; they are collected here, weighted by samples, summed over the ranks, and
only then move the running statistics: running = (1 - momentum) * running + momentum * mean over the step. The bounds of
rounded activations, where there are any, go the same way (quantization/ranges.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from megabatch.trainer.norms.synchronized import round_of
from megabatch.trainer.quantization.ranges import StepRanges, ranges_of


@dataclass
class _Tracked:
    module: _BatchNorm
    momentum: float | None  # None: cumulative average, as in torch
    running_mean: torch.Tensor
    running_var: torch.Tensor
    steps_seen: torch.Tensor


class StepBatchNorm:
    """The running statistics of all batch norms in a network, over one step after the other."""

    def __init__(self, network: nn.Module):
        self._tracked: list[_Tracked] = []
        for module in network.modules():
            if isinstance(module, _BatchNorm) and module.track_running_stats and module.running_mean is not None:
                assert module.running_var is not None
                assert module.num_batches_tracked is not None
                before = [b.clone() for b in (module.running_mean, module.running_var, module.num_batches_tracked)]
                self._tracked.append(_Tracked(module, module.momentum, *before))
                module.momentum = 1.0
        self._sums: torch.Tensor | None = None
        ranges = ranges_of(network)
        self._ranges = StepRanges(ranges) if ranges else None
        self._round = round_of(network)

    def begin(self) -> None:
        """Remember the running statistics before a step."""
        self._sums = None
        if self._ranges is not None:
            self._ranges.begin()
        for tracked in self._tracked:
            mean, var = _buffers(tracked.module)
            tracked.running_mean.copy_(mean)
            tracked.running_var.copy_(var)
            tracked.steps_seen.copy_(_counter(tracked.module))

    def expect(self, samples: int) -> None:
        """Say how many samples the next micro-batch has: a filler has no part in statistics over the ranks either."""
        self._round.counts = samples > 0

    def collect(self, samples: int) -> None:
        """Add the statistics of the micro-batch just passed through; a filler (0 samples) leaves no trace."""
        seen = self._ranges.seen() if self._ranges is not None else []
        if not (self._tracked or seen) or samples == 0:
            return
        buffers = [buffer for tracked in self._tracked for buffer in _buffers(tracked.module)]
        flat = torch.cat([tensor.double() for tensor in (*buffers, *seen)])
        self._sums = flat * samples if self._sums is None else self._sums.add_(flat, alpha=samples)

    def sums(self, device: torch.device) -> torch.Tensor:
        """Return the collected sums as one flat float64 tensor, to be added up over the ranks."""
        if self._sums is not None:
            return self._sums
        size = sum(2 * tracked.running_mean.numel() for tracked in self._tracked)
        size += self._ranges.numbers if self._ranges is not None else 0
        return torch.zeros(size, dtype=torch.float64, device=device)

    @torch.no_grad()
    def undo(self) -> None:
        """Put back the running statistics from before the step."""
        for tracked in self._tracked:
            mean, var = _buffers(tracked.module)
            mean.copy_(tracked.running_mean)
            var.copy_(tracked.running_var)
            _counter(tracked.module).copy_(tracked.steps_seen)
        if self._ranges is not None:
            self._ranges.undo()

    def finish_alone(self, samples: int) -> None:
        """Do what `finish` does, on the only rank."""
        if self._sums is not None:
            self.finish(self._sums, samples)

    def finish(self, sums: torch.Tensor, samples: int) -> None:
        """Move the running statistics by the mean over the step's `samples`."""
        offset = 0
        for tracked in self._tracked:
            counter = _counter(tracked.module)
            counter.copy_(tracked.steps_seen + 1)  # torch counted micro-batches; ranks differ in how many they had
            momentum = 1.0 / int(counter) if tracked.momentum is None else tracked.momentum
            before_both = (tracked.running_mean, tracked.running_var)
            for before, buffer in zip(before_both, _buffers(tracked.module), strict=True):
                mean = (sums[offset : offset + buffer.numel()] / samples).to(buffer.dtype)
                buffer.copy_(before.lerp(mean, momentum))
                offset += buffer.numel()
        if self._ranges is not None:
            self._ranges.finish(sums[offset:], samples)


def _buffers(module: _BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    assert module.running_mean is not None
    assert module.running_var is not None
    return module.running_mean, module.running_var


def _counter(module: _BatchNorm) -> torch.Tensor:
    assert module.num_batches_tracked is not None
    return module.num_batches_tracked
