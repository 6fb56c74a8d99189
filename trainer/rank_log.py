"""The log of a rank: everything that it prints, libraries in C++ too. A file that grows too large is begun anew.

`rank-00003.log` is the newest part and `rank-00003.log.1` the one before; what is older is gone.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

MOST_BYTES = 64 << 20
_LOOK_SECONDS = 5.0


def redirect_output(log: Path, terminal: bool) -> None:
    """Send what this process prints to its log from here on; with `terminal` standard output stays where it is."""
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptors = [sys.stderr.fileno()] if terminal else [sys.stderr.fileno(), sys.stdout.fileno()]
    sys.stdout.flush()
    sys.stderr.flush()
    _open(log, descriptors)
    threading.Thread(target=_keep_small, args=(log, descriptors), name="rank-log", daemon=True).start()


def begin_anew_if_large(log: Path, descriptors: list[int]) -> None:
    """Put a log that is too large aside, and go on in a new one."""
    with suppress(OSError):  # on a full or lost disk the file that is open has to do
        if log.stat().st_size > MOST_BYTES:
            log.rename(log.with_name(f"{log.name}.1"))
            _open(log, descriptors)


def _keep_small(log: Path, descriptors: list[int]) -> None:
    pause = threading.Event()
    while not pause.wait(_LOOK_SECONDS):
        begin_anew_if_large(log, descriptors)


def _open(log: Path, descriptors: list[int]) -> None:
    with log.open("ab") as opened:
        for descriptor in descriptors:
            os.dup2(opened.fileno(), descriptor)
