"""Jobs on a real Slurm, as a user submits, watches, cancels and drills them.

Those that need nothing from the outside are submitted at once by a fixture, since most of their time is waiting.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cluster.conftest import CLUSTER
from cluster.slurm_cluster import SlurmCluster, describe, missing, until

from megabatch.configs.parent import descendants
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import loop
from support.runs import Workplace, environment, is_of_run, losses, steps_done, trained_samples
from support.slurm_runs import SlurmRun, hold, release, submit
from support.training import training

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(bool(missing()), reason=missing())]
ROOT = Path(__file__).parents[2]
LONG = ("epochs=60", "checkpoint.every_epochs=60", "checkpoint.every_steps=10")
BROKEN = """\
from pathlib import Path

from network import small
from torch import nn


class Broken(nn.Module):
    def forward(self, images):
        raise RuntimeError("this machine is broken")


def always(num_classes):
    return nn.Sequential(small(num_classes), Broken())


def on_the_first_node(num_classes):
    import os
    here, file = os.environ["SLURMD_NODENAME"], Path("first-node")
    if not file.exists():
        file.write_text(here)
    return always(num_classes) if file.read_text() == here else small(num_classes)
"""
ONE_NODE = ("cluster.nodes=1", "cluster.backend.task=rank")
RUNS = {
    "crash loop": ["model.name=broken:always", "cluster.backend.max_restarts=1", *ONE_NODE],
    "bad node": ["model.name=broken:on_the_first_node", "cluster.backend.max_excluded_nodes=1", *ONE_NODE],
    "cancelled": [*LONG, "cluster.backend.task=rank"],
    "killed rank": [*LONG, "cluster.backend.task=rank"],
}


@pytest.fixture(scope="module")
def runs(running: SlurmCluster, workplace: Workplace) -> dict[str, SlurmRun]:
    (workplace.folder / "cluster.yaml").write_text(CLUSTER)
    (workplace.folder / "broken.py").write_text(BROKEN)
    held = {name: hold(workplace, name) for name in ("cancelled", "killed rank")}
    return {name: submit(workplace, name, *overrides, *held.get(name, ())) for name, overrides in RUNS.items()}


@pytest.fixture(scope="module")
def by_hand(runs: dict[str, SlurmRun], running: SlurmCluster, workplace: Workplace) -> SlurmRun:
    """`sbatch slurm/train.sbatch RUN_DIR/job.yaml`, as in docs/slurm.md."""
    run_dir = workplace.job("by-hand", 1, "cluster.loader_threads=1")
    command = ["sbatch", "--parsable", f"--output={run_dir.logs}/slurm-%j.log", str(ROOT / "slurm" / "train.sbatch")]
    run_dir.logs.mkdir()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [*command, "by-hand/job.yaml"], cwd=workplace.folder, env={**environment(), "PATH": path},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return SlurmRun(run_dir, done.stdout.strip())


@pytest.fixture(scope="module")
def array(runs: dict[str, SlurmRun], workplace: Workplace) -> str:
    """Return the number of the array job of an ablation: two cells, two seeds."""
    done = workplace.megabatch(*ABLATE)
    assert done.returncode == 0, done.stderr
    found = re.search(r"submitted as Slurm job (\d+), an array of 4 runs", done.stdout)
    assert found is not None, done.stdout
    return found[1]


ABLATE = [
    "ablate", "recipe.yaml", "data.validation_split=validation", "--vary", "regularization.label_smoothing=0",
    "--seeds", "2", "--cluster", "one.yaml", "--folder", "ablation",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_node(workplace: Workplace) -> None:
    text = CLUSTER.replace("nodes: 2", "nodes: 1").replace("name: slurm", "name: slurm, task: rank, array_at_once: 2")
    (workplace.folder / "one.yaml").write_text(text)


def rank_processes(run_dir: RunDir) -> list[int]:
    """Return the processes of the ranks: those of the run that have started no other."""
    pids = [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if is_of_run(int(folder.name), run_dir)]
    python = [pid for pid in pids if Path(f"/proc/{pid}/exe").readlink().name.startswith("python")]
    return [pid for pid in python if not descendants(pid)]


@pytest.fixture(scope="module")
def undisturbed(runs: dict[str, SlurmRun], workplace: Workplace) -> RunDir:
    """What two ranks train that nothing interrupts."""
    return workplace.train("undisturbed", 2, *LONG)


@pytest.fixture(scope="module")
def killed(runs: dict[str, SlurmRun], workplace: Workplace) -> SlurmRun:
    """A run of which one rank was killed after a checkpoint."""
    run = runs["killed rank"]
    until(lambda: steps_done(run.run_dir) >= 12, 120)
    ranks = rank_processes(run.run_dir)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    release(workplace, "killed rank")
    return run


def test_a_cancelled_run_saves_and_is_not_requeued(
    slurm: SlurmCluster, killed: SlurmRun, runs: dict[str, SlurmRun], workplace: Workplace
) -> None:
    run = runs["cancelled"]
    until(lambda: steps_done(run.run_dir) >= 5, 120)
    shown = json.loads(workplace.megabatch("status", "cancelled", "--json").stdout)
    assert (shown["state"], shown["slurm_job"]) == ("running", run.number)
    assert {rank["host"] for rank in shown["ranks"]} <= {f"node{number}" for number in range(2, 6)}
    assert len(shown["ranks"]) == 2
    done = workplace.megabatch("cancel", "cancelled")
    assert f"Slurm job {run.number} is cancelled" in done.stdout, done.stderr
    assert slurm.wait(run.number) == "CANCELLED"
    assert run.result["outcome"] == "stopped", describe(run.run_dir)
    assert sorted(folder.name for folder in run.run_dir.checkpoints.iterdir())[-1:] == [
        f"step-{run.result['step']:08d}"
    ]
    assert not run.run_dir.attempts.exists()
    assert json.loads(workplace.megabatch("status", "cancelled", "--json").stdout)["state"] == "stopped"


def test_a_rank_that_is_killed_costs_one_restart_and_nothing_else(
    slurm: SlurmCluster, killed: SlurmRun, undisturbed: RunDir
) -> None:
    run = killed
    assert slurm.wait(run.number, 240) == "COMPLETED", describe(run.run_dir)
    assert [line["cause"] for line in run.attempts] == ["failed", "finished"]
    assert losses(run.run_dir) == losses(undisturbed)
    assert trained_samples(run.run_dir) == trained_samples(undisturbed)


def test_a_crash_loop_exhausts_the_budget(slurm: SlurmCluster, runs: dict[str, SlurmRun]) -> None:
    run = runs["crash loop"]
    assert slurm.wait(run.number) == "FAILED", describe(run.run_dir)
    assert [line["cause"] for line in run.attempts] == ["failed", "failed"]
    assert "not requeued: 2 failures in a row without a new checkpoint" in run.log


def test_a_node_on_which_ranks_failed_twice_is_left_out(
    slurm: SlurmCluster, runs: dict[str, SlurmRun], workplace: Workplace
) -> None:
    run = runs["bad node"]
    assert slurm.wait(run.number) == "COMPLETED", describe(run.run_dir)
    bad = (workplace.folder / "first-node").read_text()
    assert [(line["cause"], line["host"], line["excluded"]) for line in run.attempts] == [
        ("failed", bad, None), ("failed", bad, bad), ("finished", None, None),
    ]  # fmt: skip
    assert re.search(rf"ExcNodeList=node1,{bad}\b", slurm.run("scontrol", "show", "job", run.number))


def test_the_script_for_hand_use_trains_a_job_file(slurm: SlurmCluster, by_hand: SlurmRun) -> None:
    assert slurm.wait(by_hand.number) == "COMPLETED", describe(by_hand.run_dir)
    assert by_hand.result["outcome"] == "finished"
    assert by_hand.attempts[-1]["cause"] == "finished"


def test_an_ablation_is_an_array_and_the_same_command_reports(
    slurm: SlurmCluster, array: str, workplace: Workplace
) -> None:
    for task in range(4):
        assert slurm.wait(f"{array}_{task}") == "COMPLETED"
    cells = [RunDir(file.parent) for file in sorted((workplace.folder / "ablation").rglob("job.yaml"))]
    assert [json.loads(run.result.read_text())["outcome"] for run in cells] == ["finished"] * 4
    assert len({tuple(losses(run)) for run in cells}) == 4
    done = workplace.megabatch(*ABLATE)
    assert done.returncode == 0, done.stderr
    assert "4 finished already" in done.stdout
    assert "submitted" not in done.stdout
    assert (workplace.folder / "ablation" / "results.json").exists() or "written:" in done.stdout


def test_three_nodes_train_what_three_local_ranks_train_and_hostile_names_stay_names(
    slurm: SlurmCluster, workplace: Workplace
) -> None:
    run_dir = RunDir(workplace.folder / "50% of it's $(touch canary) %j")
    done = workplace.megabatch(
        "launch", "recipe.yaml", "--cluster", "cluster.yaml", "cluster.nodes=3", "--run-dir", run_dir.root.name
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"submitted as Slurm job (\d+)", done.stdout)
    assert found is not None
    assert slurm.wait(found[1]) == "COMPLETED", describe(run_dir)
    assert json.loads(run_dir.result.read_text())["outcome"] == "finished"
    assert len(list((run_dir.root / "samples").iterdir())) == 3
    told = workplace.megabatch("logs", run_dir.root.name, "--follow").stdout
    assert "step 6/6" in told
    assert losses(run_dir) == losses(workplace.train("local", 3))
    assert list(workplace.folder.rglob("canary")) == []


@pytest.mark.matrix
def test_a_drill_proves_that_a_requeued_job_comes_back_exactly(
    slurm: SlurmCluster, undisturbed: RunDir, workplace: Workplace
) -> None:
    """And while it comes back: Slurm's controller is away when the job wants to go back into the queue once more."""
    run = submit(workplace, "drilled", *LONG, *hold(workplace, "drilled"), "cluster.backend.task=rank")
    until(lambda: steps_done(run.run_dir) >= 5, 120)
    done = workplace.megabatch("drill", "drilled", "--steps", "3")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{describe(run.run_dir)}"
    assert "the run came back exactly" in done.stdout
    assert "those of the recipe's order, each once" in done.stdout
    slurm.kill("slurmctld")
    os.kill(rank_processes(run.run_dir)[0], signal.SIGUSR1)
    until(run.run_dir.result.exists)
    until(lambda: "Unable to contact slurm controller" in run.log)
    release(workplace, "drilled")
    slurm.start("slurmctld", "-D")
    assert slurm.wait(run.number, 240) == "COMPLETED", describe(run.run_dir)
    assert [line["cause"] for line in run.attempts] == ["stopped", "finished"]
    assert run.result["attempt"] == 3
    assert losses(run.run_dir) == losses(undisturbed)


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


def test_every_node_is_looked_at_by_check(slurm: SlurmCluster, workplace: Workplace) -> None:
    done = workplace.megabatch("check", "--cluster", "cluster.yaml", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len({rank["host"] for rank in told["ranks"]}) == 2
    assert told["problems"] == []
