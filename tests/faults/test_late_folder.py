"""One node sees the shared run folder as it was some seconds ago: nothing hangs, and it goes on from rank 0's checkpoint."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from megabatch.configs.parent import descendants
from megabatch.configs.run_dir import RunDir
from support.late_folder import in_late_view, late_view
from support.runs import Workplace, environment, finish, losses, trained_samples, wait_for_step

pytestmark = [pytest.mark.processes, pytest.mark.matrix]
# Without the look at the start, which would wait for the folder first.
RECIPE = (
    "cluster.check_at_start=false", "epochs=20", "checkpoint.every_epochs=20", "checkpoint.every_steps=4",
)  # fmt: skip
DELAY = 2.0  # seconds
SECONDS_TO_START = 6.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def start(workplace: Workplace, run_dir: RunDir, view: Path) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        meet = f"localhost:{probe.getsockname()[1]}"
    commands = [
        [
            sys.executable, "-m", "megabatch.trainer.node", "--nodes", "2", "--node-rank", str(node), "--meet", meet,
            str(run_dir.job),
        ]
        for node in range(2)
    ]  # fmt: skip
    options = {"cwd": workplace.folder, "env": environment(), "stdout": subprocess.DEVNULL}
    return [
        subprocess.Popen(commands[0], **options),  # type: ignore[call-overload]
        in_late_view(commands[1], run_dir.root, view, **options),
    ]


def test_a_node_that_sees_everything_late_goes_on_from_the_checkpoint_of_rank_0(
    workplace: Workplace, tmp_path: Path
) -> None:
    run_dir = workplace.job("late", 1, *RECIPE, "cluster.nodes=2", "cluster.backend={name: slurm}")
    view = tmp_path / "view"
    with late_view(run_dir.root, view, DELAY) as held:
        until(lambda: (view / "job.yaml").exists())
        nodes = start(workplace, run_dir, view)
        wait_for_step(run_dir, 30, *nodes)
        held.set()
        os.kill(descendants(nodes[0].pid)[0], signal.SIGKILL)
        assert [node.wait(timeout=120) for node in nodes] == [137, 1]
        newest = max(run_dir.checkpoints.glob("step-*"))
        nodes = start(workplace, run_dir, view)
        time.sleep(SECONDS_TO_START)  # a rank that has not started yet by then waits less, and does not fail
        assert not (view / "checkpoints" / newest.name).exists()
        assert all(node.poll() is None for node in nodes)
        held.clear()
        finish(nodes[0], run_dir)
        assert nodes[1].wait(timeout=60) == 0
    reference = workplace.train("in-time", 2, *RECIPE)
    assert losses(run_dir) == losses(reference)
    assert trained_samples(run_dir) == trained_samples(reference)
