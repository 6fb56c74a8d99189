"""The agent of a host, spoken to as the launcher does; shell commands stand for the ranks and what starts them."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from megabatch.configs.parent import descendants
from megabatch.launcher.hosts.connection import REMOTE_COMMAND
from megabatch.launcher.hosts.messages import Lines, decoded, encoded

# A starter of two ranks. A rank asked to stop takes its time to save.
RANK = "trap 'sleep 0.3; touch saved-$0; exit 0' TERM; touch up-$0; while :; do sleep 0.05; done"
STARTER = f"sh -c {shlex.quote(RANK)} 1 & sh -c {shlex.quote(RANK)} 2 & wait; wait; touch starter-ended"


class Launcher:
    """The other end of the agent's standard input and output."""

    def __init__(self, process: subprocess.Popen[bytes]):
        self.process = process
        self.noise: list[bytes] = []
        self._lines = Lines()
        self._waiting: list[dict[str, Any]] = []

    def ask(self, do: str, **request: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(encoded({"do": do, **request}))
        self.process.stdin.flush()

    def start(self, folder: Path, command: str, silent_seconds: float = 30, grace_seconds: float = 10) -> None:
        self.ask("start", argv=["sh", "-c", command], environment={"VALUE": "it's $HOME"}, folder=str(folder),
                 silent_seconds=silent_seconds, grace_seconds=grace_seconds)  # fmt: skip

    def hears(self, event: str) -> dict[str, Any]:
        """Return the next message of a kind."""
        assert self.process.stdout is not None
        while True:
            while self._waiting:
                message = self._waiting.pop(0)
                if message["event"] == event:
                    return message
            read = os.read(self.process.stdout.fileno(), 65536)
            assert read, "the agent has ended"
            for line in self._lines.cut(read):
                message = decoded(line)
                if message is None:
                    self.noise.append(line)
                else:
                    self._waiting.append(message)


@contextmanager
def agent(before: str = "") -> Iterator[Launcher]:
    """Start an agent as sshd does: a shell reads the constant command."""
    process = subprocess.Popen(
        ["sh", "-c", before + REMOTE_COMMAND], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None
    process.stdin.write(f"{sys.executable}\n".encode())
    process.stdin.flush()
    try:
        yield Launcher(process)
    finally:
        process.kill()
        process.stdin.close()
        process.stdin = None
        process.communicate()


def wait_for(*files: Path) -> None:
    deadline = time.monotonic() + 30
    while not all(file.exists() for file in files):
        assert time.monotonic() < deadline, [file.name for file in files if not file.exists()]
        time.sleep(0.02)


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 30
    while [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_is_started_gets_its_variables_and_says_how_it_ended(tmp_path: Path) -> None:
    with agent(before="echo Welcome; ") as launcher:
        assert launcher.hears("here")["versions"]["megabatch"]
        launcher.start(tmp_path, 'pwd; printf "%s" "$VALUE"; echo why >&2; exit 7')
        assert launcher.hears("ended")["code"] == 7
    assert launcher.noise == [b"Welcome"]  # what a login script prints does no harm


def test_output_and_words_are_passed_on(tmp_path: Path) -> None:
    with agent() as launcher:
        launcher.start(tmp_path, 'printf "%s é" "$VALUE"; sleep 0.2; echo why >&2; sleep 0.2')
        assert launcher.hears("output")["text"].encode("latin-1").decode() == "it's $HOME é"
        assert launcher.hears("words")["text"] == "why\n"


def test_asked_to_stop_the_ranks_save_and_the_starter_ends_by_itself(tmp_path: Path) -> None:
    with agent() as launcher:
        launcher.start(tmp_path, STARTER)
        wait_for(tmp_path / "up-1", tmp_path / "up-2")
        launcher.ask("stop")
        assert launcher.hears("ended")["code"] in (0, -signal.SIGTERM)
        assert {file.name for file in tmp_path.glob("saved-*")} == {"saved-1", "saved-2"}


@pytest.mark.parametrize("how", ["the connection ends", "nothing is heard"])
def test_without_the_launcher_the_ranks_save_and_all_end(tmp_path: Path, how: str) -> None:
    with agent() as launcher:
        launcher.start(tmp_path, STARTER, silent_seconds=1.0)
        wait_for(tmp_path / "up-1", tmp_path / "up-2")
        below = descendants(launcher.process.pid)
        if how == "the connection ends":
            assert launcher.process.stdin is not None
            launcher.process.stdin.close()
        wait_for(tmp_path / "saved-1", tmp_path / "saved-2")
        wait_until_gone([launcher.process.pid, *below])


def test_answers_to_old_beats_do_not_keep_the_ranks(tmp_path: Path) -> None:
    """They may have been under way for long: the launcher may have given this host up, and started others."""
    with agent() as launcher:
        launcher.start(tmp_path, STARTER, silent_seconds=1.0)
        first = launcher.hears("beat")["at"]
        for _ in range(8):
            launcher.ask("beat", at=launcher.hears("beat")["at"])
        assert not (tmp_path / "saved-1").exists()  # those to new ones do
        while not (tmp_path / "saved-1").exists():
            launcher.ask("beat", at=first)
            time.sleep(0.05)
        wait_for(tmp_path / "saved-2")


def test_ranks_that_do_not_end_in_time_are_killed(tmp_path: Path) -> None:
    with agent() as launcher:
        deaf = "trap '' TERM; touch up-0; while :; do sleep 0.05; done"
        launcher.start(tmp_path, deaf, silent_seconds=0.5, grace_seconds=0.5)
        wait_for(tmp_path / "up-0")
        assert launcher.process.wait(timeout=30) == 0


def test_a_port_is_tried_as_often_as_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with agent() as launcher:
        for _ in range(2):
            launcher.ask("listen", address="127.0.0.1", port=port)
            assert launcher.hears("answer")["problems"] == []


def test_before_anything_was_started_the_end_of_the_connection_ends_the_agent() -> None:
    with agent() as launcher:
        launcher.hears("here")
        assert launcher.process.stdin is not None
        launcher.process.stdin.close()
        assert launcher.process.wait(timeout=30) == 1


def test_a_starter_that_is_killed_leaves_nobody_behind(tmp_path: Path) -> None:
    with agent() as launcher:
        launcher.start(tmp_path, STARTER)
        wait_for(tmp_path / "up-1", tmp_path / "up-2")
        starter, *ranks = descendants(launcher.process.pid)
        os.kill(starter, signal.SIGKILL)
        assert launcher.hears("ended")["code"] == -signal.SIGKILL
        wait_until_gone(ranks)


def test_an_agent_that_is_killed_takes_the_starter_with_it(tmp_path: Path) -> None:
    with agent() as launcher:
        launcher.start(tmp_path, "trap 'touch asked; exit' TERM; touch up-0; while :; do sleep 0.05; done")
        wait_for(tmp_path / "up-0")
        os.kill(launcher.process.pid, signal.SIGKILL)
        wait_for(tmp_path / "asked")


def test_a_program_that_cannot_be_started_is_told(tmp_path: Path) -> None:
    with agent() as launcher:
        launcher.ask(
            "start", argv=["/no/such/program"], environment={}, folder=str(tmp_path), silent_seconds=30, grace_seconds=1
        )
        assert launcher.hears("ended")["why"] == "/no/such/program cannot be started: No such file or directory"


def test_output_that_nobody_reads_does_not_hold_up_the_ranks(tmp_path: Path) -> None:
    with agent() as launcher:
        launcher.start(tmp_path, "dd if=/dev/zero bs=65536 count=8 2> /dev/null; touch up-0; sleep 60")
        wait_for(tmp_path / "up-0")
        launcher.ask("kill")
