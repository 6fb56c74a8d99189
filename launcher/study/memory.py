"""How much memory this machine has left: the kernel's own estimate, and the limit of the control group."""

from __future__ import annotations

from pathlib import Path

_KIB = 1024


def available_bytes(root: Path = Path("/")) -> int:
    """Return what may still be used: the least of MemAvailable and what the control groups leave.

    `root` is where proc/ and sys/ are. A container sees its own group as the topmost one.
    """
    left = [_mem_available(root / "proc/meminfo")]
    groups = root / "sys/fs/cgroup"
    for limit, usage in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        left += _left_of_group(groups / limit, groups / usage)
    own = _own_group(root)
    if own is not None:
        left += _left_of_group(own / "memory.max", own / "memory.current")
    return max(0, min(left))


def _mem_available(file: Path) -> int:
    for line in file.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * _KIB
    raise AssertionError("Linux tells MemAvailable since 3.14")


def _own_group(root: Path) -> Path | None:
    """Return the folder of this process's control group (version 2), if it has one below the topmost."""
    file = root / "proc/self/cgroup"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = [line[3:].lstrip("/") for line in lines if line.startswith("0::")]
    return root / "sys/fs/cgroup" / names[0] if names and names[0] else None


def _left_of_group(limit: Path, usage: Path) -> list[int]:
    if not (limit.is_file() and usage.is_file()):
        return []
    text = limit.read_text(encoding="ascii").strip()
    return [int(text) - int(usage.read_text(encoding="ascii"))] if text != "max" else []
