"""torchrun restarts ranks by itself, with fewer machines if one is lost: the run goes on from its newest checkpoint."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from megabatch.configs.parent import descendants
from megabatch.configs.run_dir import RunDir
from support.runs import Workplace, environment, finish, losses, steps_done, trained_samples, wait_for_step

pytestmark = pytest.mark.processes
OVERRIDES = ("epochs=150", "checkpoint.every_epochs=150", "checkpoint.every_steps=4", "precision=fp64")
# torchrun's own patience with a machine that may still come, and with one that says nothing: 30 and 15 seconds
QUICK = "last_call_timeout=4,keep_alive_interval=2,keep_alive_max_attempt=3"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_asked_to_stop(pid: int) -> None:
    """Return once SIGTERM waits for a stopped process."""
    deadline = time.monotonic() + 300
    pending = 0
    while not pending >> (signal.SIGTERM - 1) & 1:
        assert time.monotonic() < deadline, "nobody asks it to stop"
        time.sleep(0.1)
        status = Path(f"/proc/{pid}/status").read_text()
        pending = int(status.split("ShdPnd:")[1].split()[0], 16)


def started_with(run_dir: RunDir) -> list[int]:
    """Return by how many ranks the checkpoints were written from which the run went on."""
    text = run_dir.metrics.read_text()
    return [int(part.split()[0]) for part in text.split("written by ")[1:]]


@pytest.fixture(scope="module")
def alone(workplace: Workplace) -> RunDir:
    """What one rank trains, without an end in between."""
    return workplace.train("machines-alone", 1, *OVERRIDES)


@pytest.mark.matrix
def test_with_a_lost_machine_the_other_goes_on_and_a_new_one_joins(workplace: Workplace, alone: RunDir) -> None:
    backend = f"{{name: torchrun, endpoint: '127.0.0.1:{free_port()}', min_nodes: 1, max_restarts: 3}}"
    told = workplace.megabatch(
        "launch", "recipe.yaml", *OVERRIDES, "cluster.nodes=2", "cluster.processes_per_node=1",
        f"cluster.backend={backend}", "--run-dir", "machines",
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    (line,) = [line for line in told.stdout.splitlines() if "torch.distributed.run" in line]
    run_dir = RunDir(workplace.folder / "machines")

    def machine(is_host: bool = False) -> subprocess.Popen[bytes]:
        command = ["env", *shlex.split(line)]
        at = command.index("--nnodes")
        command[at:at] = ["--rdzv-conf", f"{QUICK},is_host={is_host}"]  # on one machine any could be where they meet
        return subprocess.Popen(
            command, cwd=workplace.folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    first, second = machine(is_host=True), machine()
    wait_for_step(run_dir, 40, first, second)
    for pid in (second.pid, *descendants(second.pid)):
        os.kill(pid, signal.SIGKILL)
    wait_for_step(run_dir, steps_done(run_dir) + 40, first)
    rank = descendants(first.pid)[-1]
    os.kill(rank, signal.SIGSTOP)  # it would be done before a third torchrun has started
    third = machine()
    wait_until_asked_to_stop(rank)
    os.kill(rank, signal.SIGCONT)
    finish(first, run_dir)
    assert third.wait(timeout=60) == 0
    assert second.wait() != 0
    assert losses(run_dir) == pytest.approx(losses(alone), rel=1e-9)
    assert trained_samples(run_dir) == trained_samples(alone)
    assert started_with(run_dir)[-2:] == [2, 1]  # the checkpoints it went on from: of two machines, then of one


def test_a_job_is_started_anew_as_often_as_the_cluster_file_allows(workplace: Workplace, alone: RunDir) -> None:
    run_dir = RunDir(workplace.folder / "anew")
    run = workplace.popen(
        "launch", "recipe.yaml", *OVERRIDES, "cluster.backend={name: local, max_restarts: 1}", "--run-dir", "anew"
    )
    wait_for_step(run_dir, 40, run)
    ranks = [pid for pid in descendants(run.pid) if not descendants(pid)]
    os.kill(ranks[-1], signal.SIGKILL)
    finish(run, run_dir)
    assert losses(run_dir) == pytest.approx(losses(alone), rel=1e-9)
    assert trained_samples(run_dir) == trained_samples(alone)
    assert started_with(run_dir) == [2]
    lines = [json.loads(line) for line in run_dir.starts.read_text().splitlines()]
    assert [(line["attempt"], line.get("outcome")) for line in lines] == [
        (1, None), (1, "failed"), (2, None), (2, "finished"),
    ]  # fmt: skip
    assert lines[2]["from_checkpoint"] == run_dir.checkpoint(lines[2]["step"]).name
