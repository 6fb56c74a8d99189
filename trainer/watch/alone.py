"""The thread of a rank that is alone: it has nobody to watch, but shows what it does and takes as many ranks do."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

import torch

from megabatch.trainer.watch import doing, processes, shown
from megabatch.trainer.watch.beats import Beat

_INTERVAL_SECONDS = 1.0
_LOOKS_BETWEEN_SHOWS = 4
_SHARE_LOOKS = 30  # over which the share of waiting is taken


class Alone:
    """Shows the beat of the only rank every few seconds, from `start` to `finish`."""

    def __init__(self, host: str, device: torch.device, show: Callable[[Sequence[Beat]], None]):
        self._host = host
        self._device = device
        self._show = show
        self._step: Callable[[], int] | None = None  # not before the training is made
        self._waited_for_data: deque[bool] = deque(maxlen=_SHARE_LOOKS)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def follow(self, step: Callable[[], int]) -> None:
        """Tell from here on how many steps are finished."""
        self._step = step

    def explain(self, error: Exception) -> Exception:
        """Return the error: nobody else can have caused it."""
        return error

    def finish(self) -> None:
        """End; waits for nothing."""
        self._ended.set()

    def _run(self) -> None:
        number = 0
        while not self._ended.wait(_INTERVAL_SECONDS):
            number += 1
            beat = self._beat(number)
            if number % _LOOKS_BETWEEN_SHOWS == 0:
                self._show([beat])

    def _beat(self, number: int) -> Beat:
        act = doing.activity(doing.main_frame()) if self._step is not None else "starting"
        self._waited_for_data.append(doing.WAITING_FOR_DATA in act)
        known = len(self._waited_for_data) == _SHARE_LOOKS
        return Beat(
            rank=0, host=self._host, process=processes.this_process(), number=number,
            step=0 if self._step is None else self._step(), doing=act, groups={},
            memory_bytes=shown.memory_bytes(), gpu_memory_bytes=shown.gpu_memory_bytes(self._device),
            waits_for_data=sum(self._waited_for_data) / _SHARE_LOOKS if known else None,
        )  # fmt: skip
