"""Jobs that Slurm interrupts come back by themselves and train what an uninterrupted run trains, bit for bit.

All are submitted at once, and interrupted once they train, since most of their time is waiting; each test then looks at
its own.
"""

from __future__ import annotations

import json

import pytest
from cluster.conftest import CLUSTER
from cluster.slurm_cluster import SlurmCluster, describe, missing, until

from megabatch.configs.run_dir import RunDir
from support.invariants import same_training, violations
from support.runs import Workplace, losses, steps_done, trained_samples
from support.slurm_runs import SlurmRun, hold, release, submit

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(bool(missing()), reason=missing())]
SAMPLES, EPOCHS, STEPS = 44, 60, 180
RECIPE = (f"epochs={EPOCHS}", "checkpoint.every_epochs=60", "checkpoint.every_steps=20")
FIRST = 5  # no interruption before this step
KEYS = {
    "time limit": ["time_minutes=1", "save_seconds=10", "max_restarts=20"],
    "killed": ["partition=low", "cpus_per_task=40", "task=rank"],
    "asked to stop": ["partition=graceful", "cpus_per_task=41", "task=rank"],
    "lost node": ["exclude=null", "task=rank"],
}


@pytest.fixture(scope="module")
def runs(running: SlurmCluster, workplace: Workplace) -> dict[str, SlurmRun]:
    """Every run, interrupted in its own way."""
    (workplace.folder / "cluster.yaml").write_text(CLUSTER)
    begun = {
        name: submit(workplace, name, *RECIPE, *hold(workplace, name), *(f"cluster.backend.{key}" for key in keys))
        for name, keys in KEYS.items()
    }

    for name in ("killed", "asked to stop", "lost node"):
        until(lambda: steps_done(begun[name].run_dir) >= FIRST, 120)  # noqa: B023
    running.run("sbatch", "--partition=high", "--nodes=4", "--exclude=node1", "--cpus-per-task=50", "--wrap=sleep 1")
    running.kill("node1")
    for name in ("killed", "asked to stop"):
        until(lambda: running.restarts(begun[name].number) == 1)  # noqa: B023
        release(workplace, name)
    until(begun["time limit"].run_dir.attempts.exists, 120)
    release(workplace, "time limit")
    until(lambda: running.restarts(begun["lost node"].number) == 1)
    release(workplace, "lost node")
    return begun


@pytest.fixture(scope="module")
def reference(runs: dict[str, SlurmRun], workplace: Workplace) -> RunDir:
    """The same training by two ranks that nothing disturbs."""
    return workplace.train("reference", 2, *RECIPE)


def finished_as_if_never_interrupted(slurm: SlurmCluster, run: SlurmRun, reference: RunDir) -> None:
    assert slurm.wait(run.number, 240) == "COMPLETED", describe(run.run_dir)
    assert run.result["outcome"] == "finished"
    assert losses(run.run_dir) == losses(reference)
    assert trained_samples(run.run_dir) == trained_samples(reference)
    assert same_training(run.run_dir.root, reference.root) == []
    assert violations(run.run_dir.root, SAMPLES, STEPS) == []


def test_a_job_that_is_preempted_at_once_saves_and_slurm_requeues_it(
    slurm: SlurmCluster, runs: dict[str, SlurmRun], reference: RunDir
) -> None:
    run = runs["killed"]
    finished_as_if_never_interrupted(slurm, run, reference)
    assert run.result["attempt"] == 2
    assert [line["cause"] for line in run.attempts] == ["finished"]
    assert "DUE TO PREEMPTION" in run.log


def test_a_job_that_is_preempted_with_grace_saves_and_requeues_itself(
    slurm: SlurmCluster, runs: dict[str, SlurmRun], reference: RunDir
) -> None:
    run = runs["asked to stop"]
    finished_as_if_never_interrupted(slurm, run, reference)
    assert run.result["attempt"] == 2
    assert [line["cause"] for line in run.attempts] == ["stopped", "finished"]
    starts = [json.loads(line) for line in run.run_dir.starts.read_text().splitlines()]
    assert [(line["attempt"], line.get("outcome")) for line in starts] == [
        (1, None), (1, "stopped"), (2, None), (2, "finished"),
    ]  # fmt: skip
    assert starts[1]["step"] == starts[2]["step"]


def test_a_run_longer_than_its_time_limit_goes_on_again_and_again(
    slurm: SlurmCluster, runs: dict[str, SlurmRun], reference: RunDir
) -> None:
    run = runs["time limit"]
    finished_as_if_never_interrupted(slurm, run, reference)
    causes = [line["cause"] for line in run.attempts]
    assert causes[-1] == "finished"
    assert set(causes[:-1]) == {"time"}


def test_a_lost_node_is_left_out_and_the_run_goes_on_from_the_newest_checkpoint(
    slurm: SlurmCluster, runs: dict[str, SlurmRun], reference: RunDir
) -> None:
    """It had the batch script and rank 0, which live on there and have the run folder for a while."""
    run = runs["lost node"]
    assert slurm.wait(run.number, 240) == "COMPLETED", describe(run.run_dir)
    assert losses(run.run_dir) == losses(reference)
    assert trained_samples(run.run_dir) == trained_samples(reference)
    nodes = slurm.run("squeue", "--noheader", "--states=all", f"--jobs={run.number}", "--format=%N").strip()
    assert "node1" not in slurm.run("scontrol", "show", "hostnames", nodes).split()
    assert slurm.restarts(run.number) == 1  # what was left on node1 did not requeue the job that ran elsewhere
    slurm.start_node("node1")
