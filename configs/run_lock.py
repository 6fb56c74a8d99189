"""The lock on a run folder: two jobs must not write to one. Held by rank 0, asked for by the launcher beforehand."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import IO


class RunFolderInUseError(Exception):
    """Another process has the run folder."""

    def __init__(self, folder: Path, owner: str):
        super().__init__(
            f"{folder} is in use by {owner}: two jobs must not write to one run folder. "
            "Wait for it, stop it, or start a new run folder"
        )


def take(file: Path) -> IO[str]:
    """Lock the run folder for as long as the returned file is open. Raises RunFolderInUseError."""
    lock = file.open("a+", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        owner = lock.read().strip() or "another process"
        lock.close()
        raise RunFolderInUseError(file.parent, owner) from None
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}")
    lock.flush()
    return lock


def require_free(file: Path) -> None:
    """Raise RunFolderInUseError if the run folder is locked; leave no trace otherwise."""
    if file.exists():
        take(file).close()
