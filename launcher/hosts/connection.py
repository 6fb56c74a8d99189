"""One ssh process: the way to the agent on a host, and what comes back over it."""

from __future__ import annotations

import os
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import IO, NamedTuple

from megabatch.configs.hosts import Ssh
from megabatch.launcher.hosts.messages import Lines, Message, decoded, encoded

# ssh joins its arguments with spaces and hands them to the login shell of the host. So they are the same for every job:
# even the path of the interpreter comes over standard input, of which `read` takes no byte too many.
REMOTE_COMMAND = "exec sh -c 'IFS= read -r python && exec \"$python\" -P -m megabatch.launcher.hosts.agent'"
_LAST_WORDS = 20  # lines


class Event(NamedTuple):
    """A message of a host, or `closed` when its ssh process has ended."""

    node: int
    message: Message


def ssh_command(backend: Ssh, host: str) -> list[str]:
    """Return the argv that opens the way to a host; it asks no questions and forwards nothing."""
    options = [f"ConnectTimeout={backend.connect_seconds}", "BatchMode=yes", "ClearAllForwardings=yes"]
    named = {"-F": backend.config_file, "-i": backend.identity_file, "-l": backend.user, "-p": backend.ssh_port}
    return [
        backend.program, "-T", "-a", "-x", *(word for option in options for word in ("-o", option)),
        *(word for option, value in named.items() if value is not None for word in (option, str(value))),
        "--", host, REMOTE_COMMAND,
    ]  # fmt: skip


class Connection:
    """An agent, spoken to through ssh. What it says goes to a queue that all hosts share."""

    def __init__(self, node: int, host: str, argv: Sequence[str], python: str, events: SimpleQueue[Event]):
        self.node = node
        self.host = host
        self._events = events
        self._said: deque[str] = deque(maxlen=_LAST_WORDS)
        # In a session of its own: a terminal's Ctrl-C is for the launcher alone.
        self._ssh = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        self._write(python.encode() + b"\n")
        self._hearing_words = threading.Thread(target=self._hear_words, daemon=True)
        self._hearing = threading.Thread(target=self._hear, daemon=True)
        self._hearing_words.start()
        self._hearing.start()

    def ask(self, do: str, **request: object) -> None:
        """Send a request; one that cannot be sent is lost with the connection, which is told as an event."""
        self._write(encoded({"do": do, **request}))

    def close(self, seconds: float = 2.0) -> None:
        """End the connection; the agent ends with it."""
        assert self._ssh.stdin is not None
        with suppress(OSError):
            self._ssh.stdin.close()
        try:
            self._ssh.wait(seconds)
        except subprocess.TimeoutExpired:
            self._ssh.kill()
        self._hearing.join()

    def last_words(self) -> str:
        """Return what ssh, or Python on the host, said on standard error last."""
        return "\n".join(self._said)

    def _write(self, line: bytes) -> None:
        assert self._ssh.stdin is not None
        with suppress(OSError):
            self._ssh.stdin.write(line)
            self._ssh.stdin.flush()

    def _hear(self) -> None:
        lines = Lines()
        for read in _reads(self._ssh.stdout):
            for line in lines.cut(read):
                message = decoded(line)
                if message is not None:
                    self._events.put(Event(self.node, message))
        self._hearing_words.join()
        self._events.put(Event(self.node, {"event": "closed", "code": self._ssh.wait()}))

    def _hear_words(self) -> None:
        lines = Lines()
        for read in _reads(self._ssh.stderr):
            self._said.extend(line.decode(errors="replace").rstrip() for line in lines.cut(read))


def _reads(stream: IO[bytes] | None) -> Iterator[bytes]:
    assert stream is not None
    with stream:
        while read := os.read(stream.fileno(), 65536):
            yield read
