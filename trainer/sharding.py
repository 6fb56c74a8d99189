"""Tensors that are shared out among ranks (DTensors), as checkpoints see them: which part of which tensor is here.

They are recognized by the method that torch.distributed.checkpoint asks them by, so that nothing of DTensor is imported
in a run that has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

Tensors = dict[str, torch.Tensor]
Offsets = dict[str, tuple[int, ...]]


class Region(NamedTuple):
    """A block of a tensor: where it begins and how long it is in each dimension."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]


def is_sharded(network: nn.Module) -> bool:
    """Return whether parameters of the network are shared out among ranks."""
    return any(_chunks(parameter) is not None for parameter in network.parameters())


def region_here(tensor: torch.Tensor) -> Region | None:
    """Return which block of a shared-out tensor this rank has; None for a tensor that is whole."""
    chunks = _chunks(tensor)
    if chunks is None:
        return None
    (chunk,) = chunks()
    return Region(tuple(chunk.offsets), tuple(chunk.sizes))


def parts_to_write(tensors: Mapping[str, torch.Tensor], is_main: bool) -> tuple[Tensors, Offsets]:
    """Return what this rank writes of the tensors, and where it begins in those that are shared out.

    Rank 0 writes what is whole on every rank; of what several ranks have alike, the first of them writes.
    """
    parts: Tensors = {}
    offsets: Offsets = {}
    for name, tensor in tensors.items():
        region = region_here(tensor)
        if region is None:
            if is_main:
                parts[name] = tensor
        elif _is_first_copy(tensor):
            parts[name], offsets[name] = _local(tensor), region.offsets
    return parts, offsets


def shared_out_like(part: torch.Tensor, target: Any) -> torch.Tensor:  # Any: a DTensor
    """Return a tensor that is shared out as `target` is and of which this rank has `part`."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part.to(_local(target).device), target.device_mesh, target.placements, run_check=False, shape=target.shape,
        stride=target.stride(),
    )  # fmt: skip


def _chunks(tensor: torch.Tensor) -> Any:  # Any: a method of DTensor, or None
    return getattr(tensor, "__create_chunk_list__", None)


def _local(tensor: Any) -> torch.Tensor:
    local: torch.Tensor = tensor.detach().to_local()
    return local


def _is_first_copy(tensor: Any) -> bool:
    coordinates = tensor.device_mesh.get_coordinate()
    return all(
        coordinate == 0 or not placement.is_replicate()
        for coordinate, placement in zip(coordinates, tensor.placements, strict=True)
    )
