"""Names a process so that no other is taken for it, be it of the same number on another machine or at another time.

Linux tells all of it in /proc. Where there is no /proc, a process is never found to be here, and never gone.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from functools import cache
from pathlib import Path


def this_process() -> str:
    """Return the name of this process: machine, since its last start / process number / when it began."""
    pid = os.getpid()
    return f"{_machine()}/{pid}/{_began(pid)}"


def is_here(process: str) -> bool:
    """Return whether a process belongs to this machine and container, dead or alive."""
    machine, _, _ = _parts(process)
    return machine != "" and machine == _machine()


def is_gone(process: str) -> bool:
    """Return whether a process that belongs here has ended; what is elsewhere cannot be seen from here."""
    _, pid, began = _parts(process)
    return is_here(process) and _began(pid) != began


def kill(process: str) -> None:
    """End a process of this machine whatever it is doing; SIGKILL ends a stopped one too."""
    _, pid, _ = _parts(process)
    if is_here(process) and not is_gone(process):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _parts(process: str) -> tuple[str, int, str]:
    machine, pid, began = process.rsplit("/", 2)
    return machine, int(pid), began


@cache
def _machine() -> str:
    """Return what differs between machines, between starts of a machine, and between containers; "" if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _began(pid: int) -> str:
    """Return when a process began, in ticks since the machine did; "" for one that is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    state, *numbers = text.rpartition(")")[2].split()
    return "" if state == "Z" else numbers[18]  # field 22 of proc(5); the first here is field 3
