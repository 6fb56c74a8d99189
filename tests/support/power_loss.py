"""What a disk may hold after the power went: a model over the calls by which a program changes it.

After every call the tree is looked at. What was not synced since may be there or not: of a file any content it had, a
part of it, or zeros in its place; of a folder every entry by itself, under any name it had, in any order. A renaming
is atomic, as on every file system with a journal.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

Tree = dict[
    int, "bytes | dict[str, int]"
]  # by inode: what a file holds, or which inodes a folder has under which names
_CALLS = ("fsync", "rename", "mkdir", "unlink", "rmdir")


class Recording:
    """The states of a folder after each call."""

    def __init__(self, root: Path):
        self.root = root
        self.trees = [_tree(root)]
        self._synced: list[set[int]] = [set(self.trees[0])]  # what the n-th call synced; all of it at the beginning

    def look(self, synced: int | None = None) -> None:
        tree = _tree(self.root)
        for inode in [i for i in tree if not any(i in before for before in self.trees[-1:])]:
            self._forget(inode)  # the number of a deleted file, used again
        self.trees.append(tree)
        self._synced.append({synced} if synced is not None else set())

    def crash(self, at: int, random: Random, folder: Path) -> None:
        """Write into `folder` a state that the disk may have if the power goes after the call number `at`."""
        self._write(self.root.stat().st_ino, at, random, folder)

    def _forget(self, inode: int) -> None:
        for synced in self._synced:
            synced.discard(inode)
        for tree in self.trees:
            tree.pop(inode, None)
            for content in tree.values():
                if isinstance(content, dict):
                    for name in [name for name, child in content.items() if child == inode]:
                        del content[name]

    def _write(self, inode: int, at: int, random: Random, place: Path) -> None:
        since = max((n for n in range(at + 1) if inode in self._synced[n]), default=None)
        seen: list[Any] = [tree[inode] for tree in self.trees[since or 0 : at + 1] if inode in tree]
        if isinstance(seen[-1], bytes):
            options = seen if since is not None else [*seen, b"", seen[-1][: len(seen[-1]) // 2], bytes(len(seen[-1]))]
            place.write_bytes(random.choice(options))
            return
        place.mkdir(exist_ok=True)
        seen = seen if since is not None else [{}, *seen]
        for child in {child for entries in seen for child in entries.values()}:
            names = _by_inode(random.choice(seen))
            if child in names and not (place / names[child]).exists():
                self._write(child, at, random, place / names[child])


@contextmanager
def recorded(root: Path, patch: pytest.MonkeyPatch) -> Iterator[Recording]:
    """Record what is done below `root`, by this process and through the functions of `os`."""
    recording = Recording(root)

    def watched(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            result = original(*arguments, **named)
            recording.look(os.fstat(arguments[0]).st_ino if name == "fsync" else None)
            return result

        return call

    with patch.context() as patched:
        for name in _CALLS:
            patched.setattr(os, name, watched(name, getattr(os, name)))
        yield recording


def _by_inode(entries: dict[str, int]) -> dict[int, str]:
    return {inode: name for name, inode in entries.items()}


def _tree(root: Path) -> Tree:
    found: Tree = {}
    entries = {}
    for entry in os.scandir(root):
        entries[entry.name] = entry.inode()
        found |= _tree(Path(entry.path)) if entry.is_dir() else {entry.inode(): Path(entry.path).read_bytes()}
    return {**found, root.stat().st_ino: entries}
