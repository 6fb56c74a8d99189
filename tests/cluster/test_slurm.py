"""Jobs on a real Slurm of two nodes, started on this machine for the tests of this file."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.slurm_cluster import SlurmCluster, describe, missing, slurm_cluster, until

from megabatch.configs.metrics import read_metrics
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import loop
from support.runs import Workplace, environment, losses, steps_done, trained_samples
from support.training import training

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(bool(missing()), reason=missing())]
CLUSTER = """\
name: two-nodes
nodes: 2
processes_per_node: 1
loader_threads: 1
backend: {name: slurm, partition: all, time_minutes: 10}
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def slurm(running: SlurmCluster, workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    (workplace.folder / "cluster.yaml").write_text(CLUSTER)
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    return running


def submit(workplace: Workplace, *arguments: str) -> str:
    """Submit as a user does and return the number of the job."""
    done = workplace.megabatch("launch", *arguments)
    assert done.returncode == 0, done.stderr
    assert "stopped" not in done.stdout
    found = re.search(r"submitted as Slurm job (\d+)", done.stdout)
    assert found is not None
    return found[1]


def wait_for_step(run_dir: RunDir, step: int) -> None:
    until(lambda: steps_done(run_dir) >= step)


def rank_processes(run_dir: RunDir) -> list[int]:
    """Return the processes of the ranks: those that were given job.yaml and are not torchrun."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(run_dir.job) in words and b"torch.distributed.run" not in b" ".join(words):
            found.append(int(file.parent.name))
    return found


def test_two_nodes_train_what_two_local_ranks_train(slurm: SlurmCluster, workplace: Workplace) -> None:
    run_dir = RunDir(workplace.folder / "50% of it's $(touch canary) %j")
    number = submit(workplace, "recipe.yaml", "--cluster", "cluster.yaml", "--run-dir", run_dir.root.name)
    assert slurm.wait(number) == "COMPLETED", describe(run_dir)
    assert json.loads(run_dir.result.read_text())["outcome"] == "finished"
    assert len(list((run_dir.root / "samples").iterdir())) == 2
    assert "step 6/6" in (run_dir.logs / f"slurm-{number}.log").read_text()
    assert losses(run_dir) == losses(workplace.train("local", 2))
    assert list(workplace.folder.rglob("canary")) == []


def test_after_scancel_the_run_goes_on_from_the_step_it_stopped_at(slurm: SlurmCluster, workplace: Workplace) -> None:
    run_dir = RunDir(workplace.folder / "cancelled")
    long = ("epochs=150", "checkpoint.every_epochs=150")
    number = submit(workplace, "recipe.yaml", *long, "--cluster", "cluster.yaml", "--run-dir", run_dir.root.name)
    wait_for_step(run_dir, 20)
    slurm.run("scancel", number)
    assert slurm.wait(number) == "CANCELLED"
    result = json.loads(run_dir.result.read_text())
    assert result["outcome"] == "stopped", describe(run_dir)
    assert [folder.name for folder in run_dir.checkpoints.iterdir()] == [f"step-{result['step']:08d}"]

    number = submit(workplace, "--resume", run_dir.root.name)
    assert slurm.wait(number) == "COMPLETED", describe(run_dir)
    assert json.loads(run_dir.result.read_text())["outcome"] == "finished"
    attempts = [line["attempt"] for line in read_metrics(run_dir.metrics, "step")]
    assert attempts == [1] * result["step"] + [2] * (450 - result["step"])
    assert len(losses(run_dir)) == 450


def test_a_killed_rank_ends_the_job_on_both_nodes(slurm: SlurmCluster, workplace: Workplace) -> None:
    run_dir = RunDir(workplace.folder / "killed-by-slurm")
    number = submit(
        workplace, "recipe.yaml", "epochs=3000", "--cluster", "cluster.yaml", "--run-dir", run_dir.root.name
    )
    wait_for_step(run_dir, 5)
    ranks = rank_processes(run_dir)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    assert slurm.wait(number) == "FAILED"
    assert rank_processes(run_dir) == []


@pytest.mark.parametrize("engine", ["{name: fsdp, min_parameters: 100}", "{name: deepspeed, zero_stage: 2}"])
def test_tasks_of_srun_are_ranks_without_torchrun_and_train_what_one_process_trains(
    slurm: SlurmCluster, workplace: Workplace, engine: str
) -> None:
    name = "fsdp" if "fsdp" in engine else "deepspeed"
    run_dir = workplace.job(f"srun-{name}", 2, f"engine={engine}")
    # the nodes' names resolve nowhere: the address is said, the port is made of job and step
    inside = {**os.environ, **environment(), "MASTER_ADDR": "127.0.0.1", "DS_ACCELERATOR": "cpu"}
    command = ["srun", "--nodes=2", "--ntasks=2", sys.executable, "-m", "megabatch.trainer", str(run_dir.job)]
    done = subprocess.run(
        command, cwd=workplace.folder, env=inside, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{done.stderr}\n{describe(run_dir)}"
    with training(workplace, f"alone-as-{name}") as parts:
        loop.train(parts)
        assert losses(run_dir)[:5] == pytest.approx(losses(parts.run_dir)[:5], rel=1e-5)
        assert trained_samples(run_dir) == trained_samples(parts.run_dir)
