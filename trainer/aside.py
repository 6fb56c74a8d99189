"""Work on a disk that nobody waits for, in a thread of its own: a disk that hangs must not hold up what trains.

For files that are good to have and not needed. What finds the disk full is left out without a word.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

_MOST_WAITING = 4


class Aside:
    """Does one piece of work after the other; of more than four that wait, the oldest is left out."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque(maxlen=_MOST_WAITING)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def begin(self, work: Callable[[], None]) -> None:
        """Have it done as soon as what came before is done."""
        with self._lock:
            self._waiting.append(work)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="aside", daemon=True)
                self._thread.start()

    def wait(self, seconds: float) -> None:
        """Wait until all is done, but no longer than that."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                work = self._waiting.popleft()
            with suppress(OSError):
                work()
