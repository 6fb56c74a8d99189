"""Ranks as children of one process: how they end is told in order, and none is left behind.

The scenes are played in a process of their own, for pytest has threads and these scenes fork.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megabatch.trainer.node.ranks import Exit, Stopping, failure_of, run_ranks
from megabatch.trainer.process import StopSignal


def rank() -> int:
    return int(os.environ["RANK"])


def end_well() -> int:
    return 0


def one_is_killed() -> int:
    if rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.3 * (rank() + 1))
    return 1


def one_made_a_mistake_and_one_hangs() -> int:
    if rank() == 1:
        time.sleep(60)
    return 2


def one_raises() -> int:
    return 0 if rank() == 0 else int("no number")


def stop_when_asked() -> int:
    time.sleep(0.5)  # as long as imports may take: the signal comes now
    stop = StopSignal()
    return 0 if stop.requested() else 7


SCENES: dict[str, tuple[int, Callable[[], int], float | None]] = {  # ranks, their work, when SIGTERM comes
    "well": (3, end_well, None),
    "killed": (3, one_is_killed, None),
    "mistake": (2, one_made_a_mistake_and_one_hangs, None),
    "raised": (2, one_raises, None),
    "asked": (2, stop_when_asked, 0.2),
}


def play(name: str) -> dict[str, Any]:
    num_ranks, work, asked_after = SCENES[name]
    stopping = Stopping()
    stopping.listen()
    if asked_after is not None:
        subprocess.Popen(["sh", "-c", f"sleep {asked_after}; kill -TERM {os.getpid()}"])
    environments = {rank: {"RANK": str(rank)} for rank in range(num_ranks)}
    began = time.monotonic()
    exits = run_ranks(environments, work, stopping)
    return {"exits": exits, "seconds": time.monotonic() - began, "asked": stopping.asked}


@pytest.fixture(scope="module")
def played() -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, *SCENES], capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def exits_of(scene: dict[str, Any]) -> list[tuple[int, int]]:
    return [(rank, code) for rank, code in scene["exits"]]


def test_ranks_that_end_well_are_all_told(played: dict[str, Any]) -> None:
    assert sorted(exits_of(played["well"])) == [(0, 0), (1, 0), (2, 0)]


def test_the_rank_that_was_killed_comes_first(played: dict[str, Any]) -> None:
    assert exits_of(played["killed"]) == [(1, -9), (0, 1), (2, 1)]


def test_after_a_mistake_a_rank_that_hangs_is_ended_and_not_blamed(played: dict[str, Any]) -> None:
    assert exits_of(played["mistake"]) == [(0, 2)]


def test_an_exception_ends_its_rank_and_nothing_of_the_starter_runs_in_it(played: dict[str, Any]) -> None:
    assert sorted(exits_of(played["raised"])) == [(0, 0), (1, 1)]


def test_a_signal_that_comes_before_the_ranks_listen_is_not_lost(played: dict[str, Any]) -> None:
    assert sorted(exits_of(played["asked"])) == [(0, 0), (1, 0)]
    assert played["asked"]["asked"]


def test_the_first_failure_is_the_cause() -> None:
    assert failure_of([Exit(2, 0), Exit(1, -9), Exit(0, 1)]) == Exit(1, -9)
    assert failure_of([Exit(0, 0)]) is None


def test_no_rank_outlives_a_starter_that_is_killed(tmp_path: Path) -> None:
    starter = subprocess.Popen([sys.executable, __file__, "--forever", str(tmp_path)])
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pids = [int(file.name) for file in tmp_path.iterdir()]
    starter.kill()
    starter.wait()
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "a rank is left"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def run_forever(folder: Path) -> int:
    (folder / str(os.getpid())).touch()
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "--forever":
        run_ranks({0: {}, 1: {}}, lambda: run_forever(Path(sys.argv[2])), Stopping())
    else:
        print(json.dumps({name: play(name) for name in sys.argv[1:]}))
