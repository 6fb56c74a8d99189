"""F29: the service of Weights & Biases dies in the middle of a run. (Servers: tests/trainer/trackers/test_wandb_tracker.py)"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from megabatch.configs.parent import descendants
from support.runs import Workplace, losses

pytestmark = pytest.mark.processes
LONG = ("epochs=300", "checkpoint.every_epochs=300")


def service_of(process: int) -> int | None:
    """Return the process that wandb has started beside this one, if it is there yet."""
    for child in descendants(process):
        try:
            if b"wandb-core" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
        except OSError:
            continue
    return None


def test_a_killed_service_of_wandb_ends_neither_the_training_nor_its_end(workplace: Workplace) -> None:
    offline = "tracking={wandb: {project: demo, mode: offline}}"
    run_dir = workplace.job("wandb-killed", 1, *LONG, offline)
    with (run_dir.root / "printed").open("w") as printed:
        process = workplace.start_alone(run_dir, stdout=printed, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while (service := service_of(process.pid)) is None:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(service, signal.SIGKILL)
    assert process.wait(timeout=120) == 0
    assert len(losses(run_dir)) == 900
    assert run_dir.result.exists()
    assert "Weights & Biases stopped: " in (run_dir.root / "printed").read_text()
