"""Checkpoints in the background: the loop waits for a copy in memory, a thread does the rest.

One save at a time: the next one first waits for the one before. What is saved are the values at the call, whatever the
optimizer does afterwards. What became of a save is told at the next occasion in the loop's own thread, where trackers
live and errors can be raised.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from megabatch.configs.evaluation import Checkpoint
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import checkpoint
from megabatch.trainer.checkpoint import Snapshot
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.host_copy import HostCopy
from megabatch.trainer.state import TrainState
from megabatch.trainer.trackers.base import Trackers
from megabatch.trainer.world import World

KeepRule = Callable[[], Collection[int]]  # which steps to keep, asked for when the new checkpoint is there


class _Saved(NamedTuple):
    seconds: float
    error: OSError | None


class Saver:
    """Writes the checkpoints of one run."""

    def __init__(self, run_dir: RunDir, settings: Checkpoint, world: World, trackers: Trackers):
        self._run_dir = run_dir
        self._settings = settings
        self._trackers = trackers
        self._copy = HostCopy()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[_Saved] | None = None
        self._told: dict[str, Any] = {}
        self._failures = 0  # in a row
        self.verified = checkpoint.Verified()
        """Which checkpoints of the run are known to be whole."""
        self.takes_part = world.is_main
        """Whether this rank has anything to write."""

    def save(self, state: TrainState, snapshot: Snapshot, keep: KeepRule) -> None:
        """Copy the snapshot, and begin to write it as the checkpoint of `state.step`.

        Then all but the newest `keep_last` checkpoints and those that `keep` returns are deleted.
        """
        began = time.perf_counter()
        self.wait()
        waited = time.perf_counter() - began
        copy, there = self._copy.take(snapshot)
        self._pending = self._thread.submit(self._write, state.step, copy, there, keep)
        self._told = {
            "step": state.step,
            "attempt": state.attempt,
            "stalled_seconds": time.perf_counter() - began,
            "waited_seconds": waited,  # a part of those: for the save before this one
        }

    def wait(self) -> None:
        """Return once nothing is being written. Raises what went wrong with it."""
        if self._pending is not None:
            done, self._pending = self._pending, None
            self._tell(done.result())

    def tell(self) -> None:
        """Tell the trackers what became of a save, if it has ended; never waits."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def close(self) -> None:
        """Let a save that was begun end. Says nothing: whoever closes without `wait` has another error to tell."""
        self._thread.shutdown(wait=True)

    def _write(self, step: int, copy: Snapshot, there: Callable[[], None], keep: KeepRule) -> _Saved:
        """Do what the thread does."""
        began = time.perf_counter()
        there()
        try:
            checkpoint.save(self._run_dir, step, copy, self.verified)
            checkpoint.prune(self._run_dir, self._settings.keep_last, keep(), self.verified.damage)
        except OSError as error:
            return _Saved(time.perf_counter() - began, error)
        return _Saved(time.perf_counter() - began, None)

    def _tell(self, saved: _Saved) -> None:
        self._trackers.checkpoint({**self._told, "background_seconds": saved.seconds})
        if saved.error is not None:
            raise TrainingError(
                f"{self._run_dir.checkpoints}: the checkpoint of step {self._told['step']} could not be written: "
                f"{saved.error}. Earlier checkpoints are as they were: make room, then go on with --resume"
            ) from saved.error
