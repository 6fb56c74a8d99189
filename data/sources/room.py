"""Room in the cache folder: the shards used longest ago go, those in use stay.

A shard in use is held by a shared lock, one being loaded by its `.lock`. A file being loaded counts with the size it
will have, which stands in its name, so that many loading at once cannot fill the folder beyond its limit together.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import NamedTuple

from megabatch.data.errors import DataError
from megabatch.data.sources.locks import if_free, locked

PART = ".part"
_POLL_SECONDS = 0.05
_LONGEST_WAIT_SECONDS = 120.0  # a shard is held for the moment of a read, so a longer wait means the limit is too small


class _Entry(NamedTuple):
    used: int  # when it was last used, ns
    bytes: int
    path: Path


def part_path(folder: Path, name: str, size: int) -> Path:
    """Return where a shard is while it is loaded: NAME.SIZE.part."""
    return folder / f"{name}.{size}{PART}"


def make_room(part: Path, size: int, max_bytes: int, pause: Callable[[float], None] = time.sleep) -> None:
    """Create `part`, after removing shards of its folder until `size` bytes fit below `max_bytes`.

    Raises DataError if that cannot be, because all that is there is in use.
    """
    if size > max_bytes:
        raise DataError(
            f"{part.parent}: a shard needs {size:,} bytes, but the cache may have {max_bytes:,}: "
            "raise cluster.cache.max_gibibytes"
        )
    deadline = time.monotonic() + _LONGEST_WAIT_SECONDS
    while True:
        with _counting(part.parent):
            if _removed_until(part, max_bytes - size):
                part.touch()
                return
        if time.monotonic() > deadline:
            raise DataError(
                f"{part.parent}: {size:,} bytes are needed, and all that is there is in use: "
                "raise cluster.cache.max_gibibytes"
            )
        pause(_POLL_SECONDS)


def named(part: Path, path: Path) -> None:
    """Give a loaded file its name. Not while somebody counts: a file renamed meanwhile would be missed in the sum."""
    with _counting(part.parent):
        part.rename(path)


def _counting(folder: Path) -> AbstractContextManager[None]:
    return locked(folder / "room.lock")


def _removed_until(part: Path, most_bytes: int) -> bool:
    entries = sorted(_entries(part.parent, part))
    total = sum(entry.bytes for entry in entries)
    for entry in entries:
        if total <= most_bytes:
            return True
        if _removed(entry.path):
            total -= entry.bytes
    return total <= most_bytes


def _entries(folder: Path, own: Path) -> list[_Entry]:
    entries = []
    for path in folder.iterdir():
        if path == own or path.suffix not in (".tar", PART):
            continue
        with suppress(FileNotFoundError):  # another process may finish or remove it meanwhile
            found = path.stat()
            entries.append(_Entry(found.st_mtime_ns, _counted_bytes(path, found.st_size), path))
    return entries


def _counted_bytes(path: Path, size: int) -> int:
    if path.suffix == PART:
        expected = path.stem.rpartition(".")[2]
        return max(size, int(expected) if expected.isdigit() else 0)
    with suppress(FileNotFoundError):
        return size + path.with_suffix(".idx").stat().st_size
    return size


def _removed(path: Path) -> bool:
    """Remove a shard with its index, or what is left of a download, unless somebody holds it."""
    held_by = path if path.suffix == ".tar" else path.with_name(path.name.split(".")[0] + ".lock")
    with if_free(held_by) as free:
        if free:
            path.unlink(missing_ok=True)
            path.with_suffix(".idx").unlink(missing_ok=True)
        return free
