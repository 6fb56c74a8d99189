"""A copy of a snapshot in host memory: what the loop waits for when a checkpoint is saved.

The memory is kept from one save to the next. From a GPU the copies are only queued, into pinned memory, behind what the
GPU has to do already and before the next step: they hold the values of this moment, and an event tells when they are
there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from megabatch.trainer.checkpoint import Snapshot
from megabatch.trainer.sharding import Tensors


class HostCopy:
    """Memory for one snapshot at a time: the next copy overwrites the one before."""

    def __init__(self) -> None:
        self._kept: Tensors = {}

    @torch.no_grad()
    def take(self, snapshot: Snapshot) -> tuple[Snapshot, Callable[[], None]]:
        """Return the snapshot with its tensors copied, and what waits until the copies are there."""
        groups = snapshot.groups()
        kept: Tensors = {}
        network, optimizer, averaged, masks = (self._copies(name, tensors, kept) for name, tensors in groups.items())
        self._kept = kept
        copied = replace(snapshot, network=network, optimizer=optimizer, averaged=averaged, masks=masks)
        return copied, _event(groups)

    def _copies(self, group: str, tensors: Mapping[str, torch.Tensor], kept: Tensors) -> Tensors:
        copies = {}
        for name, tensor in tensors.items():
            place = self._place(self._kept.get(f"{group}/{name}"), tensor)
            copies[name] = kept[f"{group}/{name}"] = place.copy_(tensor, non_blocking=True)
        return copies

    @staticmethod
    def _place(known: torch.Tensor | None, tensor: torch.Tensor) -> torch.Tensor:
        if known is not None and (known.shape, known.dtype) == (tensor.shape, tensor.dtype):
            return known
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)


def _event(groups: Mapping[str, Mapping[str, torch.Tensor]]) -> Callable[[], None]:
    """Return what waits for the copies from a GPU that were queued just now; on the CPU they are there already."""
    if not any(tensor.is_cuda for tensors in groups.values() for tensor in tensors.values()):
        return _nothing
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event.synchronize


def _nothing() -> None:
    """Wait for nothing."""
