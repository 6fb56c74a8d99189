"""A tracker that somebody else's code is behind: it follows the lines in a thread of its own, from a bounded queue.

Nothing it does can block or end the training: a slow one fills the queue and lines are dropped (and counted), an
exception ends the thread with one message, and at the end it gets half a minute to finish.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from itertools import chain

from typing_extensions import override

from megabatch.configs.metrics import OF_STEPS
from megabatch.trainer.trackers.lines import Line, LineTracker

Follow = Callable[[Iterator[Line]], None]  # goes through the lines until there are no more
_QUEUE_LINES = 10_000
_FINISH_SECONDS = 30.0  # importing and starting wandb alone takes 10 s on a busy machine


class Mirror(LineTracker):
    """Hands every line to `follow`, in order."""

    def __init__(self, name: str, follow: Follow, warn: Callable[[str], None]):
        self._name = name
        self._warn = warn
        self._lines: queue.Queue[Line | None] = queue.Queue(_QUEUE_LINES)
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, args=(follow,), daemon=True)
        self._thread.start()

    @override
    def take(self, line: Line) -> None:
        if not self._thread.is_alive():
            return
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    @override
    def close(self) -> None:
        """Wait a while for what is queued, then let go."""
        try:
            self._lines.put(None, timeout=1.0)
        except queue.Full:
            self._dropped += 1
        self._thread.join(_FINISH_SECONDS)
        if self._thread.is_alive():
            self._warn(f"{self._name} did not finish within {_FINISH_SECONDS:.0f} s; metrics.jsonl has everything")
        elif self._dropped:
            self._warn(f"{self._name} was too slow: {self._dropped} lines not sent; metrics.jsonl has them")

    def _run(self, follow: Follow) -> None:
        try:
            self._wait_and_follow(follow)
        except Exception as error:  # whatever happens there, the training goes on
            cause = f"{type(error).__name__} {error}"
            self._warn(f"{self._name} stopped: {cause}. Training goes on; metrics.jsonl has everything")

    def _wait_and_follow(self, follow: Follow) -> None:
        """Begin with the first step: what ends before one, as an evaluation by itself, is no run."""
        lines, waited = iter(self._lines.get, None), []
        for line in lines:
            waited.append(line)
            if line["kind"] in OF_STEPS:
                follow(chain(waited, lines))
                return
