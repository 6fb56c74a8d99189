"""This process: its signals, the lock on the run folder, and what it leaves behind when it fails."""

from __future__ import annotations

import atexit
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import NoReturn

from megabatch.configs.new_file import write_whole
from megabatch.configs.run_dir import RunDir
from megabatch.configs.run_lock import RunLock, take
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.host import host_name
from megabatch.trainer.watch.beats import PeerLostError
from megabatch.trainer.watch.peers import is_of_peer

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_held: list[RunLock] = []  # a lock lasts as long as its file is open


class StopSignal:
    """SIGTERM, SIGINT or SIGUSR1 set a flag and do nothing else; the ranks agree on it at the end of a step."""

    def __init__(self) -> None:
        self._requested = False
        for number in STOP_SIGNALS:
            signal.signal(number, self._request)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # node/ranks.py holds them back until here

    def requested(self) -> bool:
        """Return whether this rank was asked to stop."""
        return self._requested

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._requested = True


def exit_now(code: int) -> NoReturn:
    """End this process without C++ static destructors: gloo's threads abort in them now and then (seen in 1 of 6 runs).

    Everything that has to be closed is closed by now; Python's own exit functions are run first.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def allow_open_files() -> None:
    """Let this process open as many files as it may ask for: an open shard takes one, and shells allow 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def hold_lock(file: Path) -> None:
    """Take the run folder for this process until it ends, however it ends. Raises RunFolderError."""
    _held.append(take(file))


def require_lock() -> None:
    """Raise TrainingError if the lock that this process took is another's now: that one goes on, this one must end."""
    for lock in _held:
        if (owner := lock.taken_by()) is not None:
            raise TrainingError(
                f"the run was started again while this start of it lived, and {owner} has it now: this one writes "
                "nothing more and ends. The network or a machine was away for long"
            )


def record_failure(
    run_dir: RunDir, rank: int, error: Exception, stack: Sequence[str] = (), collective: str | None = None
) -> None:
    """Write why this rank failed, for the launcher to tell once. On a full disk the log and the terminal have it.

    `stack` and `collective` are where its main thread hangs, if it does.
    """
    failure = {
        "rank": rank,
        "host": host_name(),
        "time": time.time(),
        "kind": type(error).__name__,
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
        "of_another_rank": isinstance(error, PeerLostError) or is_of_peer(error),
        "verdict": asdict(error.verdict) if isinstance(error, PeerLostError) else None,
        "stack": list(stack),
        "last_collective": collective,
    }
    with suppress(OSError):  # a run folder that is not there is not made: its name may be mistyped
        run_dir.logs.mkdir(exist_ok=True)
        write_json(run_dir.failure(rank), failure)


def write_json(file: Path, values: dict[str, object]) -> None:
    """Write a result file that is there whole or not at all."""
    write_whole(file, json.dumps(values, indent=1))
