"""Tensors of which every rank holds a part (DTensors, from FSDP2): the part, norms over all parts, and the whole.

Plain tensors pass through unchanged, and torch's DTensor, which takes seconds to import, is left alone until an engine
has made one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

Tensors = dict[str, Tensor]
Offsets = dict[str, tuple[int, ...]]


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is cut among the ranks."""
    return type(tensor) not in (Tensor, nn.Parameter) and hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """Return this rank's part, which shares its memory with the tensor; a plain tensor is returned as it is."""
    part: Tensor = cast(Any, tensor).to_local() if is_sharded(tensor) else tensor
    return part


def norms_over_ranks(parts: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norms of the tensors of which this rank has these parts; all ranks must call it together."""
    dtype = torch.promote_types(parts[0].dtype, torch.float32)
    squares = torch.stack(torch._foreach_norm(list(parts), 2, dtype=torch.float64)).square()
    dist.all_reduce(squares)
    return squares.sqrt().to(dtype)


def whole(tensors: Mapping[str, Tensor]) -> Tensors:
    """Return the tensors in one piece each; where one is cut, all ranks must call this together."""
    return {name: in_one_piece(tensor) for name, tensor in tensors.items()}


def in_one_piece(tensor: Any) -> Tensor:  # Any: a DTensor has methods that a Tensor has not
    """Return the whole of a tensor; where it is cut, all ranks must call this together."""
    full: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor
    return full


def cut_like(tensor: Tensor, value: Tensor) -> Tensor:
    """Return `value`, a tensor in one piece, cut among the ranks as `tensor` is; no rank sends anything."""
    if not is_sharded(tensor) or is_sharded(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    like: Any = tensor
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


class Region(NamedTuple):
    """A block of a tensor: where it begins and how long it is in each dimension."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]


def has_sharded(network: nn.Module) -> bool:
    """Return whether parameters of the network are shared out among ranks."""
    return any(is_sharded(parameter) for parameter in network.parameters())


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
            parts[name], offsets[name] = local(tensor.detach()), region.offsets
    return parts, offsets


def shared_out_like(part: torch.Tensor, target: Any) -> torch.Tensor:  # Any: a DTensor
    """Return a tensor that is shared out as `target` is and of which this rank has `part`."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part.to(local(target).device), target.device_mesh, target.placements, run_check=False, shape=target.shape,
        stride=target.stride(),
    )  # fmt: skip


def _chunks(tensor: torch.Tensor) -> Any:  # Any: a method of DTensor, or None
    return getattr(tensor, "__create_chunk_list__", None)


def _is_first_copy(tensor: Any) -> bool:
    coordinates = tensor.device_mesh.get_coordinate()
    return all(
        coordinate == 0 or not placement.is_replicate()
        for coordinate, placement in zip(coordinates, tensor.placements, strict=True)
    )
