"""What others on the machine or the network may try while a job runs: garbage on its ports, planted links, prying eyes."""

from __future__ import annotations

import os
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from megabatch.launcher.supervise import descendants
from support.runs import Workplace, finish, losses, steps_done

pytestmark = pytest.mark.processes
LONG = ("epochs=20", "checkpoint.every_epochs=20", "checkpoint.every_steps=20", "model.name=network:unhurried")
GARBAGE = (
    b"\x00" * 64, b"\xff" * 4096, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"", b"\x00",
    (1 << 62).to_bytes(8, "little") * 8, b"\x03" + (1 << 40).to_bytes(8, "little") + b"x" * 100, os.urandom(2048),
)  # fmt: skip
ATTACK_SECONDS = 2.0


def listening(pids: list[int]) -> set[tuple[str, int]]:
    """Return address and port of all sockets at which these processes accept connections."""
    sockets = set()
    for pid in pids:
        with suppress(OSError):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    sockets.add(str(entry.readlink()))
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
            address, port = fields[1].split(":")
            found.add((socket.inet_ntoa(bytes.fromhex(address)[::-1]), int(port, 16)))
    return found


def test_garbage_and_slow_talkers_on_every_port_change_nothing(workplace: Workplace) -> None:
    alone = workplace.train("left-alone", 2, *LONG)
    run_dir = workplace.job("attacked", 2, *LONG)
    process = workplace.start(run_dir)
    deadline = time.monotonic() + 120
    while steps_done(run_dir) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    places = listening([process.pid, *descendants(process.pid)])
    assert places
    begun = steps_done(run_dir)
    sent = 0
    with ExitStack() as slow_talkers:
        for place in places:
            for _ in range(20):  # they say a byte and stay
                talker = slow_talkers.enter_context(socket.create_connection(place, timeout=5))
                talker.sendall(b"\x03")
        until = time.monotonic() + ATTACK_SECONDS
        while time.monotonic() < until and process.poll() is None:
            for place in places:
                for garbage in GARBAGE:
                    with suppress(OSError), socket.create_connection(place, timeout=5) as attacker:
                        attacker.sendall(garbage)
                        sent += 1
            time.sleep(0.05)
        assert process.poll() is None, "the attack came too late"
        assert steps_done(run_dir) > begun
        finish(process, run_dir)
    assert sent > 20 * len(places)
    assert losses(run_dir) == losses(alone)
