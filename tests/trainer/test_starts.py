"""What starts.jsonl says of starts and ends, and what becomes of it on disks that take nothing."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.prepare import prepare
from megabatch.trainer import starts
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.state import TrainState
from megabatch.trainer.watch.beats import PeerLostError, Verdict
from megabatch.trainer.world import World
from support.runs import Workplace

HERE = socket.gethostname()
ALONE = World(0, 1, 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def job(workplace: Workplace) -> Job:
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(workplace.folder)
        return prepare("recipe.yaml", "laptop", []).job


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDir]:
    yield RunDir(tmp_path)
    starts._begun.clear()


def lines(run: RunDir) -> list[dict[str, Any]]:
    return [json.loads(text) for text in run.starts.read_text().splitlines()]


def test_a_start_and_its_end_are_a_line_each_and_a_second_end_is_none(run: RunDir, job: Job) -> None:
    state = TrainState(step=4, attempt=2)
    starts.tell_start(run, ALONE, job, lambda: state, run.checkpoint(4))
    assert starts.attempt_now() == 2
    state.step = 9
    starts.tell_end("stopped")
    starts.tell_failure(0, TrainingError("something while it ended"))
    start, end = lines(run)
    told = {"attempt": 2, "step": 4, "from_checkpoint": "step-00000004", "ranks": 1, "hosts": [HERE], "device": "cpu"}
    assert start == {"kind": "start", "engine": "ddp", **told} | {key: start[key] for key in ("time", "versions")}
    assert start["versions"]["torch"] == torch.__version__
    assert end == {"kind": "end", "attempt": 2, "step": 9, "outcome": "stopped", "cause": None, "time": end["time"]}
    assert starts.attempt_now() is None


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (TrainingError("\nno room\non the disk"), f"rank 3 on {HERE}: no room"),
        (ConfigError([Problem("a.yaml:1:2", "wrong")]), f"rank 3 on {HERE}: a.yaml:1:2: wrong"),
        (KeyError("lost"), f"rank 3 on {HERE}: KeyError: 'lost'"),
        (RuntimeError("Connection closed by peer"), f"rank 3 on {HERE}: lost another rank: RuntimeError: Connection"),
        (PeerLostError(Verdict("gone", 1, "b", "x/1/2", 7, "", "rank 1 on b ended\nmore")), "rank 1 on b ended"),
        (TrainingError("x" * 2000), f"rank 3 on {HERE}: xxx"),
    ],
)
def test_a_cause_is_one_line_with_rank_and_host(error: Exception, told: str) -> None:
    cause = starts.cause_of(3, error)
    assert cause.startswith(told)
    assert "\n" not in cause
    assert len(cause) <= 500


def test_who_started_a_killed_rank_0_writes_its_end_and_only_that_of_this_start(run: RunDir, job: Job) -> None:
    starts.tell_end_of_killed(run, 0.0, 0, "was killed by SIGKILL")
    assert not run.starts.exists()
    starts.tell_start(run, ALONE, job, lambda: TrainState(step=4, attempt=2), None)
    starts._begun[0].aside.wait(10)
    run.metrics.write_text(
        '{"attempt": 1, "step": 99}\n{"attempt": 2, "step": 7}\n{"kind": "message"}\n{"attempt": 2, "st'
    )
    starts.tell_end_of_killed(run, time.time() + 60, 0, "was killed by SIGKILL")
    assert len(lines(run)) == 1
    for _ in range(2):  # the second time there is an end
        starts.tell_end_of_killed(run, 0.0, 0, "was killed by SIGKILL")
    _, end = lines(run)
    assert (end["outcome"], end["attempt"], end["step"]) == ("failed", 2, 7)
    assert end["cause"] == f"rank 0 on {HERE} was killed by SIGKILL"


def test_a_full_disk_costs_the_lines_and_a_hanging_one_a_short_wait(
    run: RunDir, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.starts.symlink_to("/dev/full")
    starts.tell_start(run, ALONE, job, TrainState, None)
    starts.tell_end("finished")
    run.starts.unlink()
    os.mkfifo(run.starts)  # whoever opens it waits for a reader that never comes
    monkeypatch.setattr(starts, "_SECONDS_TO_WRITE", 0.1)
    began = time.monotonic()
    starts.tell_start(run, ALONE, job, TrainState, None)
    starts.tell_end("finished")
    assert time.monotonic() - began < 5.0
