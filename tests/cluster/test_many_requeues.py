"""A job that is requeued fifty times in a row trains what one trains that is left alone, bit for bit."""

from __future__ import annotations

import random

import pytest
from cluster.conftest import CLUSTER
from cluster.slurm_cluster import SlurmCluster, describe, missing, until

from megabatch.configs.metrics import last_attempt
from support.invariants import same_training, violations
from support.runs import Workplace, losses, steps_done, trained_samples
from support.slurm_runs import hold, release, submit

pytestmark = [pytest.mark.slurm, pytest.mark.matrix, pytest.mark.skipif(bool(missing()), reason=missing())]
REQUEUES, MOST_STEPS_BETWEEN = 50, 12
SAMPLES, EPOCHS, STEPS = 44, 400, 1200
RECIPE = (f"epochs={EPOCHS}", f"checkpoint.every_epochs={EPOCHS}", "checkpoint.every_steps=7")


def test_fifty_requeues_lose_nothing_and_repeat_nothing(slurm: SlurmCluster, workplace: Workplace) -> None:
    (workplace.folder / "cluster.yaml").write_text(CLUSTER)
    moments = random.Random(1)
    run = submit(workplace, "again", *RECIPE, *hold(workplace, "again"))
    for number in range(1, REQUEUES + 1):
        until(lambda: last_attempt(run.run_dir.metrics) == number, 240)  # noqa: B023  # it trains again
        step = steps_done(run.run_dir) + moments.randint(0, MOST_STEPS_BETWEEN)
        until(lambda: steps_done(run.run_dir) >= step, 240)  # noqa: B023
        slurm.run("scontrol", "requeue", run.number)
        print(f"requeued {number} times, step {steps_done(run.run_dir)}", flush=True)
    release(workplace, "again")
    assert slurm.wait(run.number, 600) == "COMPLETED", describe(run.run_dir)
    reference = workplace.train("alone", 2, *RECIPE)
    assert losses(run.run_dir) == losses(reference)
    assert trained_samples(run.run_dir) == trained_samples(reference)
    assert same_training(run.run_dir.root, reference.root) == []
    assert violations(run.run_dir.root, SAMPLES, STEPS) == []
    assert run.result["attempt"] == REQUEUES + 1
