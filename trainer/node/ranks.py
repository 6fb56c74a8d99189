"""The ranks of one node as children of this process: forked, asked to stop, waited for, and never left behind.

A fork has all that was imported before it, so torch is read once a node and not once a rank. Nothing may have started a
thread or touched a GPU by then: neither survives a fork.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from megabatch.configs.parent import signal_when_parent_ends
from megabatch.trainer.process import STOP_SIGNALS

MISTAKE = 2  # the exit code of a rank that found a mistake in job or data
# The others see by themselves that a rank has failed, and write down what they saw. What hangs is ended after this.
_SECONDS_FOR_THE_OTHERS = 15.0
_SECONDS_AFTER_A_MISTAKE = 2.0  # it is told already
_POLL_SECONDS = 0.02


class Exit(NamedTuple):
    """How a rank ended: its exit code, or minus the number of the signal that killed it."""

    rank: int
    code: int


class Stopping:
    """While ranks run: SIGTERM, SIGINT and SIGUSR1 are passed on to them, which save and end."""

    def __init__(self) -> None:
        self.asked = False
        self._ranks: list[int] = []

    @contextmanager
    def of(self, ranks: list[int]) -> Iterator[None]:
        """Pass signals on to these processes."""
        self._ranks = ranks
        if self.asked:  # while they were forked
            self._send(signal.SIGTERM)
        yield
        self._ranks = []

    def listen(self) -> None:
        """Begin to listen."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        self.asked = True
        self._send(number)

    def _send(self, number: int) -> None:
        for pid in self._ranks:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def run_ranks(environments: Mapping[int, Mapping[str, str]], work: Callable[[], int], stopping: Stopping) -> list[Exit]:
    """Fork one process a rank, which does the work, and return how each ended, in the order in which they did.

    `environments` has the variables of every rank. Ranks that this process had to kill are not among the results.
    """
    gc.freeze()  # what is there already is never looked at again, and so stays shared
    sys.stdout.flush()
    parent = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # a rank lets them in when it knows what to do with them
    ranks = {_fork(parent, environment, work): rank for rank, environment in environments.items()}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    with stopping.of(list(ranks)):
        return _wait(ranks)


def _fork(parent: int, environment: Mapping[str, str], work: Callable[[], int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    signal_when_parent_ends(signal.SIGKILL, parent)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    os.environ.update(environment)
    code = 1
    try:
        code = work()
    finally:  # nothing of the parent's stack may run here
        os._exit(code)


def _wait(ranks: dict[int, int]) -> list[Exit]:
    """Wait until all have ended; some time after the first failure, kill the rest."""
    exits: list[Exit] = []
    running, deadline = set(ranks), None
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG if deadline is not None else 0)
        if pid in running:
            running.remove(pid)
            exits.append(Exit(ranks[pid], os.waitstatus_to_exitcode(status)))
            if exits[-1].code != 0 and deadline is None:
                deadline = time.monotonic() + _patience(exits[-1].code)
        elif pid == 0 and deadline is not None and time.monotonic() > deadline:
            _kill(running)
            break
        elif pid == 0:
            time.sleep(_POLL_SECONDS)
    return exits


def _patience(code: int) -> float:
    return _SECONDS_AFTER_A_MISTAKE if code == MISTAKE else _SECONDS_FOR_THE_OTHERS


def _kill(pids: set[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)


def failure_of(exits: Sequence[Exit]) -> Exit | None:
    """Return the first failure, or None if all ended well."""
    return next((ended for ended in exits if ended.code != 0), None)
