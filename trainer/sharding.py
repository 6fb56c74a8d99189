"""Tensors of which every rank holds a part (DTensors, from FSDP2): the part, norms over all parts, and the whole.

Plain tensors pass through unchanged, and torch's DTensor, which takes seconds to import, is left alone until an engine
has made one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

Tensors = dict[str, Tensor]


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
