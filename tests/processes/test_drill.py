"""A drill of a run on this machine, and what status and cancel make of it, as a user does it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from megabatch.configs.run_dir import RunDir
from megabatch.launcher.status import look
from megabatch.launcher.supervise import ExitCode
from support.runs import Workplace, environment, steps_done

pytestmark = pytest.mark.processes


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def test_a_drilled_run_comes_back_exactly_and_can_then_be_cancelled(workplace: Workplace) -> None:
    run_dir = RunDir(workplace.folder / "drilled")
    launched = workplace.popen(
        "launch", "recipe.yaml", "epochs=3000", "model.name=network:unhurried", "--run-dir", "drilled"
    )
    until(lambda: steps_done(run_dir) >= 3 and run_dir.ranks.exists())
    shown = json.loads(workplace.megabatch("status", "drilled", "--json").stdout)
    assert shown["state"] == "running"
    assert [rank["rank"] for rank in shown["ranks"]] == [0, 1]
    assert all(rank["memory_bytes"] > 50e6 for rank in shown["ranks"])

    drill = subprocess.Popen(
        [sys.executable, "-c", "from megabatch.launcher.cli import main; main()", "drill", "drilled", "--steps", "3"],
        cwd=workplace.folder, env=environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert launched.wait(timeout=120) == ExitCode.STOPPED
    until(lambda: look(run_dir).attempt == 2)
    cancelled = workplace.megabatch("cancel", "drilled")
    assert cancelled.returncode == 0, cancelled.stderr
    told = drill.communicate(timeout=120)[0].splitlines()
    assert drill.returncode == 0, told
    assert told[-1] == "the run came back exactly"
    assert look(run_dir).state == "stopped"
