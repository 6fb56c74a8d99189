"""Compares the copies of the network that the ranks have: they must agree to the last bit at every step.

A bit that flips in the memory of one machine is seen by no checksum of files, and the ranks go on with two networks. A
sum of the bits as whole numbers is enough to find it: one flipped bit changes it by a power of two, which is never 0
modulo 2**64.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import nn

from megabatch.trainer.errors import TrainingError
from megabatch.trainer.world import World

_WHOLE_NUMBERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # bytes an element -> dtype
SumOverRanks = Callable[[torch.Tensor], None]


def bits_of(network: nn.Module) -> torch.Tensor:
    """Return a number for each parameter (int64, on its device), the same only for the same bits as far as can be."""
    return torch.stack([_bits(parameter.detach()) for parameter in network.parameters()])


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(_WHOLE_NUMBERS[tensor.element_size()]).sum(dtype=torch.int64)


def require_equal(network: nn.Module, world: World, sum_over_ranks: SumOverRanks, step: int) -> None:
    """Raise TrainingError on all ranks, with the parameter and the rank, if one has other bits than the others.

    Every rank must call this together. One number a rank is sent; only where they differ, one for each parameter.
    """
    own_T = bits_of(network)
    bits_W = _of_all_ranks(own_T.sum().reshape(1), world, sum_over_ranks).flatten().tolist()
    if len(set(bits_W)) == 1:
        return
    all_WT = _of_all_ranks(own_T, world, sum_over_ranks)
    differs_T = (all_WT != all_WT[0]).any(dim=0).tolist()
    names = [name for (name, _), differs in zip(network.named_parameters(), differs_T, strict=True) if differs]
    raise TrainingError(_told(names, bits_W, step))


def _of_all_ranks(own_T: torch.Tensor, world: World, sum_over_ranks: SumOverRanks) -> torch.Tensor:
    """Return the numbers of every rank, a row each: sums to which every other rank adds 0."""
    all_WT = own_T.new_zeros(world.num_ranks, own_T.numel())
    all_WT[world.rank] = own_T
    sum_over_ranks(all_WT)
    return all_WT


def _told(names: list[str], bits_W: list[int], step: int) -> str:
    (usual, count), *_ = Counter(bits_W).most_common()
    odd = [rank for rank, bits in enumerate(bits_W) if bits != usual]
    ranks = "ranks" if len(odd) > 1 else "rank"
    majority = count > len(bits_W) / 2
    who = f"{ranks} {', '.join(map(str, odd))} and the others" if majority else "the ranks, none of them in a majority,"
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return (
        f"after step {step}: {who} have different bits in the parameter {names[0]}{more}. Faulty memory, or code that "
        "changes a parameter on one rank only. No checkpoint has it: look at the machine, then go on from the last one"
    )
