"""The flat shards of ZeRO: what a rank holds of parameters, gradients and optimizer state, and how they become whole.

Stages 1 and 2 lay the parameters of a group end to end and cut that line into as many equal parts as there are ranks.
Stage 3 cuts every parameter so; a rank's parts, laid end to end, are its shard. Either way the shards of all ranks are
the rows of one matrix, and a parameter is found in it by its offset: `_Piece` says where.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from megabatch.trainer.engines.base import Tensors
from megabatch.trainer.optim.state import Plain, group_numbers


@dataclass(frozen=True)
class _Piece:
    """Where one parameter is in the matrix of all shards: from `offset` on, in rows or, if `columns`, in all rows."""

    name: str
    shape: torch.Size
    offset: int
    columns: int | None

    @property
    def elements(self) -> int:
        return self.shape.numel()

    def read(self, matrix_RS: torch.Tensor) -> torch.Tensor:
        """Return the parameter's values, with its shape."""
        if self.columns is None:
            flat = matrix_RS.view(-1)[self.offset : self.offset + self.elements]
        else:
            flat = matrix_RS[:, self.offset : self.offset + self.columns].reshape(-1)[: self.elements]
        return flat.view(self.shape)

    def write(self, matrix_RS: torch.Tensor, values: torch.Tensor) -> None:
        """Put the parameter's values where `read` finds them."""
        flat = values.reshape(-1).to(matrix_RS)
        if self.columns is None:
            matrix_RS.view(-1)[self.offset : self.offset + self.elements] = flat
        else:
            part_RC = matrix_RS[:, self.offset : self.offset + self.columns]
            padding = part_RC.numel() - self.elements
            part_RC.copy_(nn.functional.pad(flat, (0, padding)).view(part_RC.shape))


@dataclass(frozen=True)
class _Shard:
    """One flat parameter of the optimizer, and the network's parameters in the matrix that it is a row of."""

    flat: nn.Parameter
    pieces: tuple[_Piece, ...]
    members: frozenset[nn.Parameter]


class Shards:
    """The shards of this rank. `zero` is DeepSpeed's optimizer, which has its own name for everything in each stage."""

    def __init__(self, zero: Any, optimizer: torch.optim.Optimizer, shards: Sequence[_Shard]):
        self._zero = zero
        self._optimizer = optimizer
        self._shards = tuple(shards)
        self._stage_3 = hasattr(zero, "fp32_partitioned_groups_flat")
        self._offloaded = bool(zero.offload_optimizer if self._stage_3 else zero.cpu_offload)
        self._buffers = [shard.flat.grad for shard in self._shards]  # offloaded gradients stay in these

    def of(self, parameters: Sequence[nn.Parameter]) -> tuple[nn.Parameter, ...]:
        """Return the shards with any of the parameters; the groups of a recipe keep weights and biases apart."""
        wanted = set(parameters)
        return tuple(shard.flat for shard in self._shards if shard.members & wanted)

    def lend_buffers(self) -> None:
        """Give an offloaded gradient its buffer back, which the end of a step took away."""
        if self._offloaded:
            for shard, buffer in zip(self._shards, self._buffers, strict=True):
                shard.flat.grad = buffer

    def show_gradients(self) -> None:
        """Let each shard have its gradient as `.grad`, where a change to it changes what DeepSpeed steps with."""
        if self._offloaded:
            return
        for number, shard in enumerate(self._shards):
            parts = self._zero.averaged_gradients[number]
            flat = parts[0].view(-1) if len(parts) == 1 else torch.cat([part.reshape(-1) for part in parts])
            if flat.numel() < shard.flat.numel():  # the last rank's share may be shorter than the others'
                flat = nn.functional.pad(flat, (0, shard.flat.numel() - flat.numel()))
            self._zero.averaged_gradients[number] = [flat]
            shard.flat.grad = flat

    def forget_gradients(self) -> None:
        """Do what DeepSpeed does after an overflow, but for its loss scale."""
        zero = self._zero
        zero.zero_grad(set_to_none=True)
        if self._offloaded:
            zero.reset_cpu_buffers()
        elif self._stage_3:
            zero.averaged_gradients = {}
        else:
            for number in range(len(self._shards)):
                zero.averaged_gradients[number] = zero.all_grad_tensors[number] = None
        if not self._stage_3:
            zero.micro_step_id = -1

    def take_weights(self) -> None:
        """Let the shards have what the network's weights are now."""
        self._zero.refresh_fp32_params()

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Return what optim/state.py returns of an optimizer that is not sharded, on rank 0; all ranks together."""
        tensors: Tensors = {}
        numbers: dict[str, Plain] = {}
        for shard in self._shards:
            for key, value in self._optimizer.state.get(shard.flat, {}).items():
                if isinstance(value, torch.Tensor) and value.shape == shard.flat.shape:
                    matrix_RS = _matrix(value)
                    if dist.get_rank() == 0:
                        tensors |= {f"{piece.name}/{key}": piece.read(matrix_RS).cpu() for piece in shard.pieces}
                elif isinstance(value, torch.Tensor):  # a step counter, alike for all
                    tensors |= {f"{piece.name}/{key}": value.clone() for piece in shard.pieces}
                elif isinstance(value, Plain):
                    numbers |= {f"{piece.name}/{key}": value for piece in shard.pieces}
        return tensors, {"state": numbers, "groups": group_numbers(self._optimizer)}

    def load_state(self, tensors: Tensors, numbers: dict[str, Any]) -> None:
        """Put back what `state` gave, or an optimizer that is not sharded."""
        saved: dict[str, dict[str, Any]] = {}
        for path, value in {**tensors, **numbers["state"]}.items():
            name, _, key = path.rpartition("/")
            saved.setdefault(name, {})[key] = value
        for shard in self._shards:
            self._optimizer.state[shard.flat] = _shard_state(shard, saved)
        for group, values in zip(self._optimizer.param_groups, numbers["groups"], strict=True):
            group.update(values)
        if not self._stage_3:
            self._zero._hp_optimizer_states_linked = False  # its own view of the state, made at the next step


def shards_of(zero: Any, optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str], stage: int) -> Shards:
    """Return the shards of the optimizer that DeepSpeed put in the place of ours."""
    made = _stage_3_shards(zero, names) if stage == 3 else _stage_1_shards(zero, names)
    return Shards(zero, optimizer, made)


def _stage_1_shards(zero: Any, names: Mapping[nn.Parameter, str]) -> list[_Shard]:
    shards = []
    for number, flat in enumerate(zero.single_partition_of_fp32_groups):
        members = zero.round_robin_bit16_groups[number]
        offsets = zero.round_robin_bit16_offsets[number]
        pieces = [_Piece(names[p], p.shape, offset, None) for p, offset in zip(members, offsets, strict=True)]
        shards.append(_Shard(flat, tuple(pieces), frozenset(members)))
    return shards


def _stage_3_shards(zero: Any, names: Mapping[nn.Parameter, str]) -> list[_Shard]:
    shards = []
    rank = dist.get_rank()
    for flat, members in zip(zero.fp32_partitioned_groups_flat, zero.fp16_groups, strict=True):
        offset, pieces = 0, []
        for parameter in members:
            columns = parameter.partition_numel()
            own = min(max(parameter.ds_numel - rank * columns, 0), columns)
            # What pads the last parts is memory that DeepSpeed never wrote; norms and penalties read it.
            parameter.ds_tensor.data[own:].zero_()
            flat.data[offset + own : offset + columns].zero_()
            pieces.append(_Piece(names[parameter], torch.Size(parameter.ds_shape), offset, columns))
            offset += columns
        shards.append(_Shard(flat, tuple(pieces), frozenset(members)))
    return shards


def _matrix(shard_S: torch.Tensor) -> torch.Tensor:
    """Return the shards of all ranks, one in each row."""
    matrix_RS = shard_S.new_empty(dist.get_world_size(), shard_S.numel())
    dist.all_gather(list(matrix_RS.unbind()), shard_S.contiguous())
    return matrix_RS


def _shard_state(shard: _Shard, saved: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return this rank's share of what was saved for the parameters of a shard."""
    state: dict[str, Any] = {}
    for key, first in saved.get(shard.pieces[0].name, {}).items():
        if not isinstance(first, torch.Tensor) or first.shape != shard.pieces[0].shape:
            state[key] = first
            continue
        matrix_RS = shard.flat.new_zeros(dist.get_world_size(), shard.flat.numel())
        for piece in shard.pieces:
            piece.write(matrix_RS, saved[piece.name][key])
        state[key] = matrix_RS[dist.get_rank()].clone()
    return state
