"""What runs on every host: starts the ranks there, passes on what is asked of them, and never leaves them behind.

    ssh HOST <a constant command> -> python -P -m megabatch.launcher.hosts.agent

Requests come over standard input, answers go to standard output (messages.py). When standard input ends, or no beat of
the last `silent_seconds` was answered, the launcher or the way to it is gone: the ranks save and end, and this with
them; after `grace_seconds` more they are killed. The age of the beat counts, not when its answer came: so the launcher,
who knows when it last heard of this host, knows by when all here has ended (docs/decisions/0011-one-group.md). Should
this process be killed, the kernel asks the ranks' starter to end; should that be killed, what it leaves is ended.
"""

from __future__ import annotations

import os
import select
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from socket import socket
from typing import IO

from megabatch.configs.parent import adopt_orphans, descendants, signal_when_parent_ends
from megabatch.launcher.hosts import look
from megabatch.launcher.hosts.messages import BEATS_PER_SILENCE, Lines, Message, decoded, encoded
from megabatch.launcher.supervise import send

_POLL_SECONDS = 0.1
_OUTPUT_BYTES = 600  # of the ranks in a message: in JSON at most six times that, and a writable pipe takes 4 KiB
_PATIENCE_WITH_READER = 2.0


class Agent:
    """One host's part of a job."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._requests = Lines()
        self._opened: socket | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._silent_seconds = float("inf")
        self._answered = self._beaten = _now()  # when the newest beat that was answered was sent, and the newest of all
        self._kill_at = float("inf")
        self._grace_seconds = 0.0
        self._patience_with_reader = _PATIENCE_WITH_READER
        self._alone = False

    def serve(self) -> int:
        """Answer requests until the ranks have ended, or the launcher has gone before there were any."""
        adopt_orphans()
        self._selector.register(0, selectors.EVENT_READ, self._hear)
        self._say(event="here", versions=look.versions())
        while True:
            for key, _ in self._selector.select(_POLL_SECONDS):
                key.data()
            if self._child is None and self._alone:
                return 1
            if self._child is not None and (code := self._watch(self._child)) is not None:
                return code

    def _hear(self) -> None:
        read = os.read(0, 65536)
        if not read:
            self._selector.unregister(0)
            self._leave()
        for line in self._requests.cut(read):
            request = decoded(line)
            if request is not None:
                self._obey(request)

    def _obey(self, request: Message) -> None:
        do = request.pop("do")
        actions: dict[str, Callable[..., None]] = {
            "look": self._look, "listen": self._listen, "reach": self._reach, "start": self._start,
            "stop": self._stop, "kill": self._kill, "beat": self._answer,
        }  # fmt: skip
        actions[do](**request)

    def _answer(self, at: float) -> None:
        """The launcher has heard the beat of that time."""
        self._answered = max(self._answered, at)

    def _look(self, **request: str) -> None:
        self._say(event="answer", **look.look(**request))  # type: ignore[arg-type]

    def _listen(self, address: str, port: int) -> None:
        self._close()
        try:
            self._opened = look.listener(address, port)
        except OSError as error:
            self._say(event="answer", problems=[str(error)])
        else:
            self._say(event="answer", problems=[])

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = None

    def _reach(self, address: str, port: int, seconds: float) -> None:
        problem = look.reach(address, port, seconds)
        self._say(event="answer", problems=[problem] if problem else [])

    def _start(
        self, argv: list[str], environment: dict[str, str], folder: str, silent_seconds: float, grace_seconds: float
    ) -> None:
        self._close()
        self._silent_seconds, self._grace_seconds = silent_seconds, grace_seconds
        self._answered = _now()
        try:
            self._child = subprocess.Popen(
                argv, env={**os.environ, **environment}, cwd=folder, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                preexec_fn=partial(signal_when_parent_ends, signal.SIGTERM, os.getpid()),
            )  # fmt: skip
        except OSError as error:
            self._say(event="ended", code=1, why=f"{argv[0]} cannot be started: {error.strerror}")
            sys.exit(1)
        for name, stream in (("output", self._child.stdout), ("words", self._child.stderr)):
            assert stream is not None
            self._selector.register(stream, selectors.EVENT_READ, partial(self._pass_on, name, stream))

    def _pass_on(self, event: str, stream: IO[bytes]) -> None:
        read = os.read(stream.fileno(), _OUTPUT_BYTES)
        if read:
            self._say(event=event, text=read.decode("latin-1"))
        else:
            self._selector.unregister(stream)

    def _watch(self, child: subprocess.Popen[bytes]) -> int | None:
        """Look at child, launcher and clock; return the exit code when everything is over."""
        now = _now()
        if not self._alone and now - self._answered > self._silent_seconds:
            self._leave()
        if now > self._kill_at:
            self._kill()
        if now - self._beaten > self._silent_seconds / BEATS_PER_SILENCE:
            self._beaten = now
            self._say(event="beat", at=now)
        if child.poll() is None:
            return None
        send(descendants(os.getpid()), signal.SIGKILL)  # those that the child left behind
        while self._selector.get_map():  # what they said last
            ready = self._selector.select(_POLL_SECONDS)
            if not [key for key, _ in ready if key.fd != 0]:
                break
            for key, _ in ready:
                key.data()
        self._say(event="ended", code=child.returncode)
        return 0

    def _leave(self) -> None:
        """The launcher is gone: have the ranks save and end."""
        self._alone = True
        if self._child is not None:
            self._stop()
            self._kill_at = _now() + self._grace_seconds

    def _stop(self) -> None:
        if self._child is not None:
            send(descendants(self._child.pid) or [self._child.pid], signal.SIGTERM)

    def _kill(self) -> None:
        if self._child is not None:
            send([self._child.pid, *descendants(self._child.pid)], signal.SIGKILL)

    def _say(self, **message: object) -> None:
        """Tell the launcher, unless it does not read."""
        _, writable, _ = select.select([], [1], [], 0.0 if self._alone else self._patience_with_reader)
        self._patience_with_reader = _PATIENCE_WITH_READER if writable else 0.0  # the ranks must not wait for it
        if writable:
            with suppress(OSError):
                os.write(1, encoded(message))


def _now() -> float:
    """Return seconds that nobody sets, and that go on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    sys.exit(Agent().serve())
