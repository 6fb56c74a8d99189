"""Which of the user's own code takes part in a training, to tell when it is not the same at a resume."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path


def own_code(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below the working folder that a module was loaded from, by its path there.

    What is installed (site-packages) has a version of its own, and so has megabatch.
    """
    folder = folder.resolve()
    found = {}
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is None or name.partition(".")[0] in ("megabatch", "__main__"):
            continue
        path = Path(file).resolve()
        if path.is_relative_to(folder) and "site-packages" not in path.parts and path.is_file():
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
