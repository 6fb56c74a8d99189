"""Locks between processes: flock on a file. The kernel lets go of them when a process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megabatch.data.errors import DataError


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file that no other process or thread can hold meanwhile; wait for it. The file stays."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(file, fcntl.LOCK_EX, path)
        yield
    finally:
        os.close(file)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold a folder itself, so that nothing is left in it. Network file systems cannot do that: then without a lock."""
    file = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
        yield
    finally:
        os.close(file)


def share(file: int, path: Path) -> None:
    """Take a shared lock on an open file: as long as it is open, `is_free` is false."""
    _lock(file, fcntl.LOCK_SH, path)


@contextmanager
def if_free(path: Path) -> Iterator[bool]:
    """Hold a file that nobody else holds, and yield whether that is so. A file that is gone counts as held."""
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        yield free
    finally:
        os.close(file)


def _lock(file: int, kind: int, path: Path) -> None:
    try:
        fcntl.flock(file, kind)
    except OSError as error:
        raise DataError(
            f"{path}: this file system has no file locks ({error.strerror}). "
            "Put cluster.cache.folder on a disk of the node"
        ) from None
