"""Runs on the Slurm of tests/cluster, submitted as `megabatch launch` does but without the look at the model."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabatch.configs.run_dir import RunDir
from megabatch.launcher import launch, slurm_queue
from megabatch.launcher.prepare import prepare
from megabatch.launcher.save_job import new_run_dir
from megabatch.launcher.supervise import ExitCode
from support.runs import Workplace

# The small network, slow while a file is there: a training that is to be interrupted does not end before.
HELD = """\
import time
from pathlib import Path

from network import small


def held(num_classes, file):
    network = small(num_classes)
    network.register_forward_pre_hook(lambda *_: time.sleep(0.1) if Path(file).exists() else None)
    return network
"""


@dataclass(frozen=True)
class SlurmRun:
    """A run folder and the number of its job."""

    run_dir: RunDir
    number: str

    @property
    def result(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self.run_dir.result.read_text())
        return values

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """Return the lines of attempts.jsonl."""
        return [json.loads(line) for line in self.run_dir.attempts.read_text().splitlines()]

    @property
    def log(self) -> str:
        return (self.run_dir.logs / f"slurm-{self.number}.log").read_text()


def hold(workplace: Workplace, name: str) -> list[str]:
    """Return the overrides that keep a training slow until `release` with the same name."""
    (workplace.folder / "held.py").write_text(HELD)
    (workplace.folder / f"held-{name}").touch()
    return ["model.name=held:held", f"model.options={{file: 'held-{name}'}}"]


def release(workplace: Workplace, name: str) -> None:
    """Let a training go on at its own speed."""
    (workplace.folder / f"held-{name}").unlink()


def submit(workplace: Workplace, name: str, *overrides: str) -> SlurmRun:
    """Submit the recipe of the workplace to the cluster of cluster.yaml; leave a run that is there as it is."""
    before = Path.cwd()
    os.chdir(workplace.folder)
    try:
        job = prepare("recipe.yaml", "cluster.yaml", overrides).job
        run_dir = new_run_dir(job, workplace.folder / name)
        ending = launch.start(job, run_dir, print)
    finally:
        os.chdir(before)
    assert ending.code == ExitCode.DONE, ending.message
    number = slurm_queue.number_of(run_dir)
    assert number is not None
    return SlurmRun(run_dir, number)
