"""Jobs over ssh that go on by themselves: hosts that die, are cut off, or hear only half of the others (support/hosts.py).

The slow stories (make test-matrix) are those in which two groups of ranks could live at once.
"""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.host_runs import cluster_file, ended, nothing_runs_on, started, wait_for_step
from cluster.slurm_cluster import until

from megabatch.configs.run_dir import RunDir
from support.hosts import Hosts, hosts, missing
from support.invariants import violations
from support.runs import Workplace, losses, steps_done, trained_samples

pytestmark = [pytest.mark.hosts, pytest.mark.skipif(bool(missing()), reason=missing())]
SAMPLES, EPOCHS = 44, 40
OVERRIDES = (
    f"epochs={EPOCHS}", f"checkpoint.every_epochs={EPOCHS}", "checkpoint.every_steps=4", "model.name=network:unhurried",
)  # fmt: skip
SOON = {"grace_seconds": 2, "connect_seconds": 2, "max_restarts": 9}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with hosts(tmp_path_factory.mktemp("network") / "hosts", 4) as running:
        yield running


def launched(place: Workplace, cluster: Hosts, run: str, **backend: object) -> tuple[RunDir, subprocess.Popen[str]]:
    (place.folder / f"{run}.yaml").write_text(cluster_file(cluster, 3, **SOON, **backend))
    return RunDir(place.folder / run), started(
        place, "recipe.yaml", *OVERRIDES, "--cluster", f"{run}.yaml", "--run-dir", run
    )


def test_a_dead_host_is_replaced_by_the_spare_and_one_that_was_cut_off_is_waited_for(
    workplace: Workplace, cluster: Hosts
) -> None:
    run_dir, run = launched(workplace, cluster, "spare", spares=1)
    wait_for_step(run_dir, 6, run)
    cluster.lose_power("mb1")  # where the store is
    wait_for_step(run_dir, steps_done(run_dir) + 10, run)
    cluster.cut_off("mb3")
    time.sleep(6)  # twice silent_seconds: its ranks and those of the others end
    cluster.connect("mb3")
    said = ended(run, run_dir, 0)
    cluster.boot("mb1")
    assert "mb1 has given no sign of life for" in said
    assert "failure 1 without a new checkpoint (cluster.backend.max_restarts=9): all ranks are started anew" in said
    assert "the ranks run on mb2, mb3, mb4\n" in said
    assert "mb3 has given no sign of life for" in said
    assert violations(run_dir.root, SAMPLES, len(losses(run_dir))) == []
    local = workplace.train("local", 3, *OVERRIDES)
    assert losses(run_dir) == losses(local)
    assert trained_samples(run_dir) == trained_samples(local)
    assert nothing_runs_on(cluster)


@pytest.mark.matrix
def test_of_two_halves_that_do_not_hear_each_other_one_goes_on(workplace: Workplace, cluster: Hosts) -> None:
    run_dir, run = launched(workplace, cluster, "halves", min_nodes=2)
    wait_for_step(run_dir, 6, run)
    cluster.drop("mb1", "mb3", "mb4")
    cluster.drop("mb2", "mb3", "mb4")
    at = steps_done(run_dir)
    wait_for_step(run_dir, at + 6, run)
    assert cluster.processes("mb1")
    assert not cluster.processes("mb3")
    assert not cluster.processes("mb4")
    cluster.drop_nothing()
    cluster.drop("mb2", "mb1")  # one way only
    said = ended(run, run_dir, 0)
    cluster.drop_nothing()
    assert "left out: mb3: cannot reach the first host" in said
    assert "the ranks run on mb1, mb2: 2 instead of 4" in said
    judge(workplace, run_dir, 4)


@pytest.mark.matrix
def test_a_whole_group_that_lost_its_launcher_has_ended_before_the_next_one_begins(
    workplace: Workplace, cluster: Hosts
) -> None:
    """The ranks have each other and could go on; they save and end, and only then others begin."""
    run_dir, run = launched(workplace, cluster, "group", spares=1)
    wait_for_step(run_dir, 6, run)
    with cluster.without_launcher():
        until(lambda: nothing_runs_on(cluster), 60)
        saved = steps_done(run_dir)
        assert run_dir.checkpoint(saved).is_dir()
    said = ended(run, run_dir, 0)
    assert f"all ranks are started anew from step {saved}" in said
    assert losses(run_dir) == losses(workplace.train("local", 3, *OVERRIDES))


@pytest.mark.matrix
def test_a_drill_stops_a_run_over_ssh_and_proves_that_it_came_back(workplace: Workplace, cluster: Hosts) -> None:
    run_dir, run = launched(workplace, cluster, "drilled", spares=1)
    wait_for_step(run_dir, 10, run)
    drill = workplace.megabatch("drill", "drilled", "--steps", "5")
    assert drill.returncode == 0, drill.stdout + drill.stderr
    ended(run, run_dir, 3)
    assert losses(run_dir) == losses(workplace.train("local", 3, *OVERRIDES))


def judge(place: Workplace, run_dir: RunDir, nodes: int) -> None:
    """The samples are those of a run that was left alone, and so are the losses, but for the rounding of sums."""
    local = place.train(f"local-{nodes}", nodes, *OVERRIDES)
    assert trained_samples(run_dir) == trained_samples(local)
    assert all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(losses(run_dir), losses(local), strict=True))


def test_hosts_that_have_only_ipv6_train(workplace: Workplace, tmp_path: Path) -> None:
    with hosts(tmp_path / "hosts", 2, ipv6=True) as cluster:
        (workplace.folder / "six.yaml").write_text(cluster_file(cluster, hosts=list(cluster.addresses)))
        run_dir = RunDir(workplace.folder / "six")
        ended(started(workplace, "recipe.yaml", "--cluster", "six.yaml", "--run-dir", "six"), run_dir, 0)
    assert violations(run_dir.root, SAMPLES, len(losses(run_dir))) == []
