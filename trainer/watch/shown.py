"""RUN_DIR/ranks.json: where every rank is and what it is doing, for `megabatch status`, on this machine or another one.

Written by rank 0's watch every few seconds, aside: a disk that hangs must not silence the watch, or the others would
take rank 0 for dead.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from megabatch.configs.new_file import write_whole
from megabatch.trainer.aside import Aside
from megabatch.trainer.watch.beats import Beat


class RanksFile:
    """Writes the beats of all ranks; leaves one out while the last one is still being written."""

    def __init__(self, file: Path):
        self._file = file
        self._aside = Aside()

    def __call__(self, beats: Sequence[Beat]) -> None:
        """Write them soon."""
        text = ranks_json(beats)
        self._aside.begin(lambda: write_whole(self._file, text))


def ranks_json(beats: Sequence[Beat]) -> str:
    """Return what is told of each rank, and the time."""
    ranks = [{**told_of(beat), "step": beat.step, "doing": beat.doing} for beat in beats]
    return json.dumps({"time": round(time.time(), 3), "ranks": ranks})


def told_of(beat: Beat) -> dict[str, Any]:
    """Return how a rank waits and what memory it takes; shares are of the last half minute or so, None before that."""
    return {
        "rank": beat.rank, "host": beat.host,
        "waits_for_ranks": _share(beat.waits), "waits_for_data": _share(beat.waits_for_data),
        "memory_bytes": beat.memory_bytes, "gpu_memory_bytes": beat.gpu_memory_bytes,
    }  # fmt: skip


def _share(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def memory_bytes() -> int:
    """Return what of this process is in memory; 0 where the system does not tell."""
    try:
        resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return resident * os.sysconf("SC_PAGE_SIZE")


def gpu_memory_bytes(device: torch.device) -> int | None:
    """Return what torch has taken of the GPU; None on the CPU."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else None
