"""Small values of all ranks on all ranks, as JSON: torch's own way for objects unpickles what the others send."""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.distributed as dist


def gathered_json(value: Any, num_ranks: int) -> list[Any]:  # Any: what JSON can say
    """Return the values of all ranks, by rank. To be called on all ranks at the same time."""
    if num_ranks == 1:
        return [json.loads(json.dumps(value))]
    own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(num_ranks)]
    dist.all_gather(sizes, torch.tensor([len(own)]))
    longest = max(int(size) for size in sizes)
    texts = [torch.empty(longest, dtype=torch.uint8) for _ in range(num_ranks)]
    dist.all_gather(texts, torch.nn.functional.pad(own, (0, longest - len(own))))
    return [json.loads(bytes(text[: int(size)].tolist())) for text, size in zip(texts, sizes, strict=True)]


def gathered_rows(rows: torch.Tensor, num_ranks: int) -> torch.Tensor | None:
    """Return the rows of all ranks on rank 0, and None on the others. To be called on all ranks at the same time.

    `rows` lies in the memory of the CPU; each rank may have another number of rows.
    """
    if num_ranks == 1:
        return rows
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(num_ranks)]
    dist.all_gather(sizes, torch.tensor([len(rows)]))
    longest = max(int(size) for size in sizes)
    padded = torch.nn.functional.pad(rows, (0, 0, 0, longest - len(rows)))
    of_ranks = [torch.empty_like(padded) for _ in range(num_ranks)] if dist.get_rank() == 0 else None
    dist.gather(padded, of_ranks, dst=0)
    if of_ranks is None:
        return None
    return torch.cat([of_rank[: int(size)] for of_rank, size in zip(of_ranks, sizes, strict=True)])
