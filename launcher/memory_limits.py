"""How a process ends that may not have the memory it needs to start, before anything of ours can tell."""

from __future__ import annotations

MEMORY_ADVICE = (
    "Look at the limits of this shell and of its container or batch job (`ulimit -v`, memory of the cgroup): torch "
    "alone needs about 4 GB of address space"
)
# As the dynamic loader, OpenBLAS, Python, torch and C++ say it.
_SAID = (
    "failed to map segment", "Memory allocation still failed", "MemoryError", "Cannot allocate memory",
    "can't allocate memory", "not enough memory", "std::bad_alloc",
)  # fmt: skip


def is_want_of_memory(said: str) -> bool:
    """Return whether what a process said at its end tells of missing memory."""
    return any(words in said for words in _SAID)
