"""RUN_DIR/ranks.json: where every rank is and what it is doing, for `megabatch status`, on this machine or another one.

Written by rank 0's watch every few seconds, in a thread of its own each time: a disk that hangs must not silence the
watch, or the others would take rank 0 for dead.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from megabatch.configs.new_file import write_new
from megabatch.trainer.watch.beats import Beat


class RanksFile:
    """Writes the beats of all ranks; leaves one out while the last one is still being written."""

    def __init__(self, file: Path):
        self._file = file
        self._writer: threading.Thread | None = None

    def __call__(self, beats: Sequence[Beat]) -> None:
        """Write them soon."""
        if self._writer is None or not self._writer.is_alive():
            self._writer = threading.Thread(target=self._write, args=(ranks_json(beats),), daemon=True)
            self._writer.start()

    def _write(self, text: str) -> None:
        hidden = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        with suppress(OSError):  # a full disk: nobody can look, and that is all
            write_new(hidden, text)
            hidden.rename(self._file)


def ranks_json(beats: Sequence[Beat]) -> str:
    """Return what is told of each rank; shares are of the last half minute or so, None before that."""
    ranks = [
        {
            "rank": beat.rank, "host": beat.host, "step": beat.step, "doing": beat.doing,
            "waits_for_ranks": beat.waits, "waits_for_data": beat.waits_for_data,
            "memory_bytes": beat.memory_bytes, "gpu_memory_bytes": beat.gpu_memory_bytes,
        }
        for beat in beats
    ]  # fmt: skip
    return json.dumps({"time": round(time.time(), 3), "ranks": ranks})


def memory_bytes() -> int:
    """Return what of this process is in memory; 0 where the system does not tell."""
    try:
        resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return resident * os.sysconf("SC_PAGE_SIZE")
