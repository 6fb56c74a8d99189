"""A job over ssh to its end: started anew after a failure, but never while ranks of an earlier start may live.

Why two groups of ranks cannot train at once is told in docs/decisions/0011-one-group.md.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from typing_extensions import override

from megabatch.configs.errors import ConfigError
from megabatch.configs.run_dir import RunDir
from megabatch.configs.run_lock import RunFolderError, require_free
from megabatch.launcher.hosts.attempt import Gathered, Work, gathered, train
from megabatch.launcher.hosts.watched import Outcome
from megabatch.launcher.launches import record_ending
from megabatch.launcher.report.fresh import kept_fresh
from megabatch.launcher.requeue import newest_step
from megabatch.launcher.supervise import Ending, ExitCode

_SECONDS_BETWEEN_LOOKS = 3.0
Say = Callable[[str], None]


class _TakenOverError(Exception):
    """The run was launched once more, from another shell or machine."""


class Budget:
    """How many failures in a row may come without a new checkpoint between them."""

    def __init__(self, most: int, step: int):
        self.failures = 0
        self.step = step
        self._most = most

    def allows(self, step: int) -> bool:
        """Count a failure after which the newest checkpoint is that of `step`; return whether the job may go on."""
        self.failures = 1 if step > self.step else self.failures + 1
        self.step = step
        return self.failures <= self._most

    @override
    def __str__(self) -> str:
        """Return what was counted.

        >>> budget = Budget(3, 0)
        >>> budget.allows(4), str(budget)
        (True, 'failure 1 without a new checkpoint (cluster.backend.max_restarts=3)')
        """
        return f"failure {self.failures} without a new checkpoint (cluster.backend.max_restarts={self._most})"


def run(work: Work, say: Say) -> Ending:
    """Start the ranks, and again after each failure. Raises ConfigError if nothing has been started at all."""
    work.run_dir.cancel.unlink(missing_ok=True)
    try:
        with kept_fresh(work.run_dir):
            return _run(work, say)
    finally:
        work.run_dir.cancel.unlink(missing_ok=True)  # who asked sees by this that the launcher is done


def _run(work: Work, say: Say) -> Ending:
    budget = Budget(work.backend.max_restarts, newest_step(work.run_dir))
    with gathered(work) as hosts:
        launched = _launch(work.run_dir)
        outcome = train(work, hosts, say)
    try:
        with _interruptible():
            while outcome.ending.code == ExitCode.FAILED and budget.allows(newest_step(work.run_dir)):
                record_ending(work.run_dir, outcome.ending.message)
                say(f"{outcome.ending.message}\n{budget}: all ranks are started anew from step {budget.step}")
                outcome = _again(work, launched, outcome.ended_by, say)
    except KeyboardInterrupt:
        return Ending(ExitCode.STOPPED, "no rank was running; the last checkpoint is as it was")
    except _TakenOverError:
        return Ending(ExitCode.FAILED, "not started anew: the run was launched again from somewhere else meanwhile")
    except (RunFolderError, ConfigError, OSError) as error:
        return Ending(ExitCode.FAILED, f"not started anew after a failure:\n{error}")
    if outcome.ending.code == ExitCode.FAILED and work.backend.max_restarts:
        return Ending(ExitCode.FAILED, f"{outcome.ending.message}\nnot started anew: {budget}")
    return outcome.ending


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a wait as Ctrl-C does; while ranks run, watched.py has these signals."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _launch(run_dir: RunDir) -> tuple[int, int]:
    """Return what differs between launches of a run: each of them writes its job.yaml."""
    status = run_dir.job.stat()
    return status.st_ino, status.st_mtime_ns


def _again(work: Work, launched: tuple[int, int], ended_by: Mapping[str, float], say: Say) -> Outcome:
    """Start the ranks once more, as soon as no rank of the start before can be left and enough hosts are there."""
    deadline = max([time.monotonic(), *ended_by.values()]) + work.backend.wait_seconds
    told = False
    while True:
        if _launch(work.run_dir) != launched:
            raise _TakenOverError
        if work.run_dir.cancel.exists():
            raise KeyboardInterrupt
        with ExitStack() as connected:
            try:
                require_free(work.run_dir.lock)
                hosts = connected.enter_context(gathered(work))
            except (RunFolderError, ConfigError, OSError):
                if time.monotonic() > deadline:
                    raise
            else:
                wait = seconds_to_wait(hosts, ended_by)
                if wait <= 0:
                    return train(work, hosts, say)
                if not told:
                    say(f"waiting for {wait:.0f} s: by then the ranks on hosts that cannot be asked have ended")
                told = True
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def seconds_to_wait(hosts: Gathered, ended_by: Mapping[str, float]) -> float:
    """Return how long ranks may live on hosts that did not say that they have ended, and cannot be asked now."""
    asked = {connection.host for connection in hosts.group.connections}  # they have no rank of the run (look.py)
    return max((by - time.monotonic() for host, by in ended_by.items() if host not in asked), default=0.0)
