"""The lock on a run folder: two jobs must not write to one. Held by rank 0, asked for by the launcher beforehand."""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import IO


class RunFolderError(Exception):
    """No job can write to the run folder now."""


class RunFolderInUseError(RunFolderError):
    """Another process has the run folder."""

    def __init__(self, folder: Path, owner: str):
        super().__init__(
            f"{folder} is in use by {owner}: two jobs must not write to one run folder. "
            "Wait for it, stop it, or start a new run folder"
        )


def take(file: Path) -> IO[str]:
    """Lock the run folder for as long as the returned file is open. Raises RunFolderError."""
    try:
        lock = file.open("a+", encoding="utf-8")
    except OSError as error:
        raise RunFolderError(
            f"{file}: {error.strerror}. A run writes to its folder: make it writable, or start a new run folder on "
            "another disk"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        owner = lock.read().strip() or "another process"
        lock.close()
        raise RunFolderInUseError(file.parent, owner) from None
    except OSError as error:  # Lustre without -o flock, some network file systems
        lock.close()
        raise RunFolderError(
            f"{file}: cannot be locked: {error.strerror}. Without a lock two jobs could write to one run folder: "
            "use a file system with locks (Lustre: mount it with -o flock)"
        ) from None
    with suppress(OSError):  # on a full disk the lock holds all the same
        os.truncate(lock.fileno(), 0)
        os.write(lock.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
    return lock


def require_free(file: Path) -> None:
    """Raise RunFolderError if the run folder is locked or cannot be; leave no trace otherwise."""
    if file.exists():
        take(file).close()
