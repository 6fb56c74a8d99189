"""A job on several hosts while it runs: signs of life both ways, signals, output. All end when one fails.

A host is lost when nothing was heard of it for `silent_seconds`. Its ranks may live `grace_seconds` longer (agent.py).
"""

from __future__ import annotations

import codecs
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import IO, NamedTuple

from megabatch.configs.cluster import Limits
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.hosts.connection import Connection, Event
from megabatch.launcher.hosts.messages import BEATS_PER_SILENCE, Message
from megabatch.launcher.supervise import Ending, ExitCode, ending, start_log

_THIS_PROCESS = -1  # where a signal to the launcher comes from, among the events
_FOR_THE_OTHERS_SECONDS = 30.0  # after `silent_seconds`: the ranks see by themselves that others are lost, and say so
_AFTER_KILLING_SECONDS = 5.0
_KILLING_SECONDS = 5.0  # until an agent that wants to kill ranks has done it


@dataclass(frozen=True)
class Start:
    """What every host is told to start."""

    argv: Sequence[Sequence[str]]  # of each host
    environment: Mapping[str, str]
    folder: str
    ranks_per_host: int
    limits: Limits
    grace_seconds: float


class Outcome(NamedTuple):
    """How a start ended, and of every host that did not say so, by when on the monotonic clock its ranks have ended."""

    ending: Ending
    ended_by: dict[str, float]


def run(
    connections: Sequence[Connection],
    events: SimpleQueue[Event],
    start: Start,
    run_dir: RunDir,
    say: Callable[[str], None],
) -> Outcome:
    """Start the ranks on all hosts, wait until all have ended or are lost, and return how."""
    log_start = start_log(run_dir)
    with run_dir.launcher_log.open("ab") as log:
        job = _Job(connections, start, log, say)
        with _signals(events):
            job.start()
            while job.is_running():
                job.hear(events)
                if run_dir.cancel.exists():
                    job.cancel()
    told = _ending(job, start, connections, run_dir, log_start)
    return Outcome(told, job.ended_by())


def _ending(job: _Job, start: Start, connections: Sequence[Connection], run_dir: RunDir, log_start: int) -> Ending:
    for position, connection in enumerate(connections):
        if connection.node in job.lost:  # to its ranks all others are lost
            for rank in range(position * start.ranks_per_host, (position + 1) * start.ranks_per_host):
                run_dir.failure(rank).unlink(missing_ok=True)
    told = ending(0 if job.ended_well() else 1, job.signals, run_dir, log_start)
    if not job.lost or told.code == ExitCode.STOPPED:
        return told
    return Ending(told.code, "\n".join([*job.lost.values(), told.message]))


@contextmanager
def _signals(events: SimpleQueue[Event]) -> Iterator[None]:
    """Make events of SIGINT, SIGTERM and SIGHUP; a SimpleQueue may be written to in the middle of a read."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    heard = Event(_THIS_PROCESS, {"event": "signal"})
    previous = {number: signal.signal(number, lambda *_: events.put(heard)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Job:
    def __init__(self, connections: Sequence[Connection], start: Start, log: IO[bytes], say: Callable[[str], None]):
        self.signals = 0
        self.lost: dict[int, str] = {}  # node -> what is known of it
        self._connections = {connection.node: connection for connection in connections}
        self._start = start
        self._limits = start.limits
        self._log = log
        self._say = say
        self._codes: dict[int, int] = {}
        self._heard = dict.fromkeys(self._connections, time.monotonic())
        self._speaker: int | None = None
        self._decoders = {node: codecs.getincrementaldecoder("utf-8")("replace") for node in self._connections}
        self._kill_at = self._give_up_at = float("inf")

    def start(self) -> None:
        for connection, argv in zip(self._connections.values(), self._start.argv, strict=True):
            connection.ask(
                "start", argv=argv, environment=self._start.environment, folder=self._start.folder,
                silent_seconds=self._limits.silent_seconds, grace_seconds=self._start.grace_seconds,
            )  # fmt: skip

    def is_running(self) -> bool:
        """Return whether a host is left to wait for."""
        return len({*self._codes, *self.lost}) < len(self._connections) and time.monotonic() < self._give_up_at

    def ended_by(self) -> dict[str, float]:
        """Return by when the ranks of each host have ended that has not said so."""
        after = self._limits.silent_seconds + self._start.grace_seconds + _KILLING_SECONDS
        unheard = {node: heard for node, heard in self._heard.items() if node not in self._codes}
        return {self._connections[node].host: heard + after for node, heard in unheard.items()}

    def ended_well(self) -> bool:
        return list(self._codes.values()) == [0] * len(self._connections)

    def hear(self, events: SimpleQueue[Event]) -> None:
        """Wait for what happens next, for the time of a beat at most, then look at the clock."""
        try:
            event = events.get(timeout=self._limits.silent_seconds / BEATS_PER_SILENCE)
        except Empty:
            pass
        else:
            self._take(*event)
        now = time.monotonic()
        for node, heard in self._heard.items():
            if node not in self._codes and now - heard > self._limits.silent_seconds:
                self._lose(node, f"has given no sign of life for {now - heard:.0f} s {self._why_silent()}")
        if now > self._kill_at:
            self._kill()

    def _why_silent(self) -> str:
        limit = f"cluster.limits.silent_seconds={self._limits.silent_seconds}"
        return f"({limit}): its machine is stopped or gone, or the network to it is down"

    def _take(self, node: int, message: Message) -> None:
        if node == _THIS_PROCESS:
            self._stop()
            return
        if node not in self._connections:  # a host that does not take part
            return
        if node not in self.lost:  # a host that comes back later is to end as it believes that it must
            self._heard[node] = time.monotonic()
        match message["event"]:
            case "beat" if node not in self.lost:
                self._connections[node].ask("beat", at=message["at"])
            case "output":
                sys.stdout.write(self._decoders[node].decode(message["text"].encode("latin-1")))
                sys.stdout.flush()
            case "words":
                self._write(node, message["text"].encode("latin-1"))
            case "ended":
                self._codes[node] = message["code"]
                if why := message.get("why"):
                    self.lost[node] = f"{self._connections[node].host}: {why}"
                if message["code"] != 0:
                    self._hurry()
            case "closed" if node not in self._codes:
                words = self._connections[node].last_words()
                self._lose(node, f"the connection broke (ssh ended with code {message['code']}). {words}".rstrip())

    def cancel(self) -> None:
        """Stop as after the first signal."""
        if not self.signals:
            self._stop()

    def _lose(self, node: int, how: str) -> None:
        if node not in self.lost:
            self.lost[node] = f"{self._connections[node].host} {how}"
            self._hurry()

    def _hurry(self) -> None:
        """One host has failed. The others get some time to see it themselves: their ranks say more than we could."""
        self._kill_at = min(self._kill_at, time.monotonic() + self._limits.silent_seconds + _FOR_THE_OTHERS_SECONDS)

    def _stop(self) -> None:
        self.signals += 1
        if self.signals == 1:
            self._say("stopping: a checkpoint is saved at the end of this step (again: stop at once)")
            self._ask_all("stop")
        else:
            self._kill()

    def _kill(self) -> None:
        self._kill_at = float("inf")
        self._give_up_at = time.monotonic() + _AFTER_KILLING_SECONDS
        self._ask_all("kill")

    def _ask_all(self, do: str) -> None:
        for connection in self._connections.values():
            if connection.node not in self._codes and connection.node not in self.lost:
                connection.ask(do)

    def _write(self, node: int, words: bytes) -> None:
        """Append what a host's starter of ranks says to the launcher's log, under the name of the host."""
        if node != self._speaker:
            self._log.write(f"--- {self._connections[node].host}\n".encode())
            self._speaker = node
        self._log.write(words)
        self._log.flush()
