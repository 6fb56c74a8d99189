"""The ranks that write one checkpoint: rank 0 alone, or all together where parameters are shared out.

Together they exchange reports between the stages of a save, so that all go on or all stop. They do it in the
background thread, over a process group of its own on gloo: the training's group is in use at the same time. Reports are
JSON: torch's collectives of objects are pickles.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn

from megabatch.trainer.sharding import has_sharded
from megabatch.trainer.world import World

Stage = Callable[[], dict[str, Any]]
_REPORT_BYTES = 4096
_TEXT_CHARACTERS = 400  # of an error message


class SavingRanks(Protocol):
    """Who writes a checkpoint, seen from one of them."""

    rank: int

    is_main: bool
    """Whether this rank does what is done once: the state, the manifest, the renaming."""

    shared: bool
    """Whether each rank writes its own part."""

    def all_do(self, stage: Stage) -> dict[str, Any]:
        """Return the results of all ranks in one. Raises OSError on all of them if one of them did."""
        ...


class Alone:
    """Rank 0, where every rank has everything."""

    rank = 0
    is_main = True
    shared = False

    def all_do(self, stage: Stage) -> dict[str, Any]:
        """Do it here."""
        return stage()


class Together:
    """All ranks. To be made on all of them at the same time."""

    shared = True

    def __init__(self, rank: int):
        self.rank = rank
        self.is_main = rank == 0
        group = dist.new_group(backend="gloo")
        assert isinstance(group, dist.ProcessGroup)
        self._group = group

    def all_do(self, stage: Stage) -> dict[str, Any]:
        """Do it, wait for the others, and put the results together."""
        try:
            report: dict[str, Any] = {"result": stage()}
        except OSError as error:
            report = {"error": [error.errno, f"{error.strerror}: {error.filename}"[:_TEXT_CHARACTERS]]}
        reports = self._exchange(report)
        for rank, other in enumerate(reports):
            if "error" in other:
                number, text = other["error"]
                raise OSError(number, f"{text} (rank {rank})")
        return {name: value for other in reports for name, value in other["result"].items()}

    def _exchange(self, report: dict[str, Any]) -> list[dict[str, Any]]:
        text = json.dumps(report).encode().ljust(_REPORT_BYTES)
        assert len(text) == _REPORT_BYTES, "a report is too long"
        own = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        gathered = [torch.empty_like(own) for _ in range(dist.get_world_size(self._group))]
        dist.all_gather(gathered, own, group=self._group)
        return [json.loads(bytes(one.tolist())) for one in gathered]


def saving_ranks(world: World, network: nn.Module) -> SavingRanks | None:
    """Return who writes checkpoints with this rank, or None if it writes none. To be called on all ranks."""
    if has_sharded(network):
        return Together(world.rank)
    return Alone() if world.is_main else None
