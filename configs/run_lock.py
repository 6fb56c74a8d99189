"""The lock on a run folder: two jobs must not write to one. Held by rank 0, asked for by the launcher beforehand.

A network file system may hand the lock on while its holder is cut off and lives. So the file has a token of the holder
too, which the holder looks at before it writes anything that others go on from (docs/decisions/0011-one-group.md).
"""

from __future__ import annotations

import fcntl
import os
import secrets
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


class RunLock:
    """A lock that is held until it is closed."""

    def __init__(self, file: Path, opened: IO[str]):
        self._file = file
        self._opened = opened
        with suppress(OSError):  # on a full disk the lock holds all the same
            os.truncate(opened.fileno(), 0)
            who = f"process {os.getpid()} on {socket.gethostname()}"
            os.write(opened.fileno(), f"{who}\nstart {secrets.token_hex(8)}\n".encode())
        self._said = said_in(file)

    def taken_by(self) -> str | None:
        """Return who has taken the run folder since, though this lock was not given back."""
        try:
            said = self._file.read_text(encoding="utf-8", errors="replace")
        except OSError:  # that tells nothing
            return None
        return None if said == self._said else owner_in(said)

    def close(self) -> None:
        """Give the run folder back."""
        self._opened.close()


def said_in(file: Path) -> str:
    """Return what the last holder wrote into the file: another text for each start, "" if there is none."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def owner_in(said: str) -> str:
    """Return who wrote that.

    >>> owner_in("process 7 on node1\\nstart 5f\\n")
    'process 7 on node1'
    """
    return said.partition("\n")[0].strip() or "another process"


def take(file: Path) -> RunLock:
    """Lock the run folder until the lock is closed or this process ends. Raises RunFolderError."""
    return RunLock(file, _locked(file))


def _locked(file: Path) -> IO[str]:
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
        lock.close()
        raise RunFolderInUseError(file.parent, owner_in(said_in(file))) from None
    except OSError as error:  # Lustre without -o flock, some network file systems
        lock.close()
        raise RunFolderError(
            f"{file}: cannot be locked: {error.strerror}. Without a lock two jobs could write to one run folder: "
            "use a file system with locks (Lustre: mount it with -o flock)"
        ) from None
    return lock


def require_free(file: Path) -> None:
    """Raise RunFolderError if the run folder is locked or cannot be; leave no trace otherwise."""
    if file.exists():
        _locked(file).close()
