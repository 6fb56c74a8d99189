"""Checkpoints in the background: the loop waits for a copy in memory, a thread does the rest.

One save at a time: the next one first waits for the one before. What is saved are the values at the call, whatever the
optimizer does afterwards. What became of a save is told at the next occasion in the loop's own thread, where trackers
live and errors can be raised. A checkpoint that cannot be written does not end the training, several in a row do.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from megabatch.configs.evaluation import Checkpoint
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import checkpoint
from megabatch.trainer.checkpoint import Snapshot
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.host_copy import HostCopy
from megabatch.trainer.saving_ranks import SavingRanks
from megabatch.trainer.state import TrainState
from megabatch.trainer.trackers.base import Trackers

KeepRule = Callable[[], Collection[int]]  # which steps to keep, asked for when the new checkpoint is there
_NICE = 5  # a quarter of a core that the training and this thread both want


class _Saved(NamedTuple):
    seconds: float
    error: OSError | None
    undeleted: str | None = None


class Saver:
    """Writes the checkpoints of one run."""

    def __init__(self, run_dir: RunDir, settings: Checkpoint, ranks: SavingRanks | None, trackers: Trackers):
        self._run_dir = run_dir
        self._settings = settings
        self._trackers = trackers
        self._copy = HostCopy()
        self._thread = ThreadPoolExecutor(1, "checkpoint", initializer=_give_way)
        self._pending: Future[_Saved] | None = None
        self._told: dict[str, Any] = {}
        self._failures = 0  # in a row
        self._saved_at = time.monotonic()
        self.verified = checkpoint.Verified()
        """Which checkpoints of the run are known to be whole."""
        self._ranks = ranks
        self.takes_part = ranks is not None
        """Whether this rank has anything to write."""

    def damage_of(self, folder: Path) -> str | None:
        """Return what `checkpoint.damage` does; but where each rank has a part, rank 0 has looked at all of them."""
        if self._ranks is not None and self._ranks.shared and not self._ranks.is_main:
            return None
        return self.verified.damage(folder)

    def due(self) -> bool:
        """Return whether rank 0 wishes a save, as the last one was `checkpoint.every_minutes` ago."""
        minutes = self._settings.every_minutes
        if minutes is None or self._ranks is None or not self._ranks.is_main:
            return False
        return time.monotonic() - self._saved_at >= 60 * minutes

    def save(self, state: TrainState, snapshot: Snapshot, keep: KeepRule) -> None:
        """Copy the snapshot, and begin to write it as the checkpoint of `state.step`.

        Then all but the newest `keep_last` checkpoints and those that `keep` returns are deleted.
        """
        began = time.perf_counter()
        self.wait()
        waited = time.perf_counter() - began
        ranks = self._ranks
        assert ranks is not None, "this rank takes no part"
        copy, there = self._copy.take(snapshot.share(ranks.is_main) if ranks.shared else snapshot)
        self._saved_at = time.monotonic()
        self._pending = self._thread.submit(self._write, state.step, copy, there, keep, ranks)
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

    def finish(self) -> None:
        """Return once the last save has ended. Raises TrainingError unless its checkpoint is there."""
        self.wait()
        if self._failures:
            raise TrainingError(
                f"{self._run_dir.checkpoints}: the last checkpoint could not be written. Earlier ones are as they "
                "were: make room, then go on with --resume"
            )

    def close(self) -> None:
        """Let a save that was begun end. Says nothing: whoever closes without `wait` has another error to tell."""
        self._thread.shutdown(wait=True)

    def _write(
        self, step: int, copy: Snapshot, there: Callable[[], None], keep: KeepRule, ranks: SavingRanks
    ) -> _Saved:
        """Do what the thread does."""
        began = time.perf_counter()
        there()
        try:
            checkpoint.save(self._run_dir, step, copy, self.verified, ranks)
        except OSError as error:
            return _Saved(time.perf_counter() - began, error)
        undeleted = self._prune(keep) if ranks.is_main else None
        return _Saved(time.perf_counter() - began, None, undeleted)

    def _prune(self, keep: KeepRule) -> str | None:
        """Delete what is not to be kept; return why if that is not possible."""
        try:
            checkpoint.prune(self._run_dir, self._settings.keep_last, keep(), self.verified.damage)
        except OSError as error:
            return f"warning: {self._run_dir.checkpoints}: an old checkpoint could not be deleted: {error}"
        return None

    def _tell(self, saved: _Saved) -> None:
        failed = {} if saved.error is None else {"error": str(saved.error)}
        self._trackers.checkpoint({**self._told, "background_seconds": saved.seconds, **failed})
        if saved.undeleted is not None:
            self._trackers.message(saved.undeleted)
        if saved.error is None:
            self._failures = 0
            return
        self._failures += 1
        allowed = self._settings.max_failures
        problem = (
            f"{self._run_dir.checkpoints}: the checkpoint of step {self._told['step']} could not be written: "
            f"{saved.error}. Earlier checkpoints are as they were"
        )
        if self._failures < allowed:
            self._trackers.message(
                f"warning: {problem}, and the training goes on: failure {self._failures} in a row, number {allowed} "
                "ends it"
            )
            return
        problem += f". This was failure {self._failures} in a row, checkpoint.max_failures allows no more"
        self._trackers.message(problem)  # the file for causes of failures may be on the same disk
        raise TrainingError(f"{problem}: make room, then go on with --resume") from saved.error


def _give_way() -> None:
    """Let this thread have less of a busy core than the training; on Linux a thread has a priority of its own."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):  # it saves all the same
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICE)
