"""Parents and children: no process outlives the one that started it, not even one killed with SIGKILL (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # prctl(2)
_PR_SET_CHILD_SUBREAPER = 36
_SECONDS_TO_END = 1.0  # of processes that are about to end by themselves
_POLL_SECONDS = 0.01
_prctl = ctypes.CDLL(None).prctl if hasattr(ctypes.CDLL(None), "prctl") else None


def signal_when_parent_ends(number: signal.Signals, parent: int) -> None:
    """Have the kernel send this process a signal when process `parent`, which started it, ends, however it does.

    Sends it at once if the parent has ended already. It holds through exec, not for the children of this process.
    """
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own parent ends first (Linux)."""
    if _prctl is not None:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(pid: int) -> list[int]:
    """Return the children of a process, and theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:  # the thread has just ended
            continue
        found += [grandchild for child in children for grandchild in (child, *descendants(child))]
    return found


def end_leftovers(but: Iterable[int] = ()) -> None:
    """Kill what is still below this process, `but` for some, if it does not end by itself in a moment."""
    kept = set(but)
    deadline = time.monotonic() + _SECONDS_TO_END
    while left := _unfinished(kept):
        if time.monotonic() > deadline:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)


def _unfinished(kept: set[int]) -> list[int]:
    """Return what is below this process and runs; collect what has ended."""
    left = []
    for pid in descendants(os.getpid()):
        if pid in kept:
            continue
        try:
            ended, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # a grandchild, which becomes a child when its parent has ended
            ended = 0
        if ended == 0:
            left.append(pid)
    return left
