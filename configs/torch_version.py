"""The oldest torch that megabatch starts with, compared without importing torch."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

OLDEST = (2, 11)


def too_old() -> str | None:
    """Return what to do where the installed torch is older than pyproject.toml asks for; pip can be told not to look.

    Before 2.10 a weights file could run code although it was read with `weights_only` (CVE-2026-24747).
    """
    try:
        found = version("torch")
    except PackageNotFoundError:
        return None  # other machines have it
    numbers = tuple(map(int, re.findall(r"\d+", found)[:2]))
    if numbers >= OLDEST:
        return None
    oldest = ".".join(map(str, OLDEST))
    return f"torch {found} is installed, and megabatch needs {oldest} or later. Run: pip install 'torch>={oldest}'"
