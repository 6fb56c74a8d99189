"""Lets a process end with the one that started it, so that no rank outlives a launcher killed with SIGKILL (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1  # prctl(2)
_prctl = ctypes.CDLL(None).prctl if hasattr(ctypes.CDLL(None), "prctl") else None


def signal_when_parent_ends(number: signal.Signals, parent: int) -> None:
    """Have the kernel send this process a signal when process `parent`, which started it, ends, however it does.

    Sends it at once if the parent has ended already. It holds through exec, not for the children of this process.
    """
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)
