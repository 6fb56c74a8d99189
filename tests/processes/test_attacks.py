"""What others on the machine or the network may try while a job runs: garbage on its ports, and prying eyes."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from megabatch.configs.parent import descendants
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import loop
from support.runs import Workplace, environment, losses, steps_done, trained_samples
from support.training import training
from support.web import serving

pytestmark = pytest.mark.processes
LONG = ("epochs=15", "checkpoint.every_epochs=15", "checkpoint.every_steps=20", "model.name=network:unhurried")
GARBAGE = (
    b"\x00" * 64, b"\xff" * 4096, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"", b"\x00",
    (1 << 62).to_bytes(8, "little") * 8, b"\x03" + (1 << 40).to_bytes(8, "little") + b"x" * 100, os.urandom(2048),
)  # fmt: skip
ATTACK_SECONDS = 1.5


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


PLANTED = "planted-5e1f"
TOKENS = ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD")


class Attacked(NamedTuple):
    """A run that was attacked from its third step on, with tokens all about it."""

    run_dir: RunDir
    code: int
    said: str
    commands: list[bytes]
    ports: int
    sent: int
    steps_meanwhile: int


@pytest.fixture(scope="module")
def attacked(workplace: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Attacked:
    folder = tmp_path_factory.mktemp("attacked")
    run_dir = RunDir(folder / "run")
    (folder / "home").mkdir()
    (folder / "home" / ".netrc").write_text(f"machine 127.0.0.1 login me password {PLANTED}\n")
    variables = {**environment(), **dict.fromkeys(TOKENS, PLANTED), "HOME": str(folder / "home")}
    with serving(workplace.folder / "data") as web:
        url = web.url.replace("://", f"://me:{PLANTED}@")
        (workplace.folder / "with-url.yaml").write_text(f"base: recipe.yaml\ndata: {{path: '{url}'}}\n")
        words = ["launch", "with-url.yaml", *LONG, "cluster.processes_per_node=2", "--run-dir", str(run_dir.root)]
        cache = f"cluster.cache.folder={folder / 'cache'}"
        command = [sys.executable, "-c", "from megabatch.launcher.cli import main; main()", *words, cache]
        with subprocess.Popen(
            command, cwd=workplace.folder, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as launched:
            deadline = time.monotonic() + 120
            while steps_done(run_dir) < 3:
                assert launched.poll() is None, launched.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.2)
            pids = [launched.pid, *descendants(launched.pid)]
            commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]
            places, begun = listening(pids), steps_done(run_dir)
            with ExitStack() as slow_talkers:
                sent = send_garbage(places, slow_talkers)
                assert launched.poll() is None, "the attack came too late"
                meanwhile = steps_done(run_dir) - begun
                said, _ = launched.communicate(timeout=120)
    return Attacked(run_dir, launched.returncode, said, commands, len(places), sent, meanwhile)


def send_garbage(places: set[tuple[str, int]], slow_talkers: ExitStack) -> int:
    """Open connections that say a byte and stay, and others that say nonsense; return how many of these."""
    for place in places:
        for _ in range(20):
            talker = slow_talkers.enter_context(socket.create_connection(place, timeout=5))
            talker.sendall(b"\x03")
    sent, until = 0, time.monotonic() + ATTACK_SECONDS
    while time.monotonic() < until:
        for place in places:
            for garbage in GARBAGE:
                with suppress(OSError), socket.create_connection(place, timeout=5) as attacker:
                    attacker.sendall(garbage)
                    sent += 1
        time.sleep(0.1)
    return sent


def test_garbage_and_slow_talkers_on_every_port_change_nothing(workplace: Workplace, attacked: Attacked) -> None:
    assert attacked.code == 0, attacked.said
    assert attacked.ports > 0
    assert attacked.sent > 10 * attacked.ports
    assert attacked.steps_meanwhile > 0
    with training(workplace, "left-alone", *LONG) as parts:
        loop.train(parts)
        assert trained_samples(attacked.run_dir) == trained_samples(parts.run_dir)
        assert losses(attacked.run_dir) == pytest.approx(
            losses(parts.run_dir), rel=1e-3
        )  # one rank adds in another order


def test_tokens_stand_nowhere_but_in_the_environment_and_the_job(attacked: Attacked) -> None:
    """The user and password of a URL are part of data.path, so job.yaml has them, which its owner alone can read."""
    assert len(attacked.commands) >= 3
    assert PLANTED.encode() not in b"".join(attacked.commands)
    assert PLANTED not in attacked.said
    folder = attacked.run_dir.root.parent
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != ".netrc"]
    assert len(files) > 10
    assert [file.name for file in files if PLANTED.encode() in file.read_bytes()] == ["job.yaml"]
    assert stat.S_IMODE(attacked.run_dir.job.stat().st_mode) == 0o600
