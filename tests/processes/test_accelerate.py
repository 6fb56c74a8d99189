"""engine: accelerate, started by accelerate itself or by torchrun, killed and resumed: the bits of DDP."""

from __future__ import annotations

import subprocess
import sys

import pytest

from megabatch.configs.run_dir import RunDir
from support.runs import Workplace, environment, finish, kill_after_step, losses, trained_samples

pytestmark = pytest.mark.processes
# Three ranks in float32, where another order of addition shows in the last bits.
OVERRIDES = ("epochs=12", "checkpoint.every_epochs=12", "checkpoint.every_steps=4")


def launched(workplace: Workplace, run_dir: RunDir, num_ranks: int, *options: str) -> subprocess.CompletedProcess[str]:
    """Start ranks with accelerate launch, as a user does by hand."""
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(num_ranks),
        "--num_machines", "1", "--dynamo_backend", "no", "--main_process_port", "0", *options,
        "-m", "megabatch.trainer", str(run_dir.job),
    ]  # fmt: skip
    return subprocess.run(
        command, cwd=workplace.folder, env=environment(), capture_output=True, text=True, check=False, timeout=300
    )


@pytest.fixture(scope="module")
def with_ddp(workplace: Workplace) -> RunDir:
    return workplace.train("accelerate-not", 3, *OVERRIDES)


def test_accelerate_launch_and_its_engine_give_the_bits_of_torchrun_and_ddp(
    workplace: Workplace, with_ddp: RunDir
) -> None:
    run_dir = workplace.job("accelerate-launched", 3, *OVERRIDES, "engine=accelerate")
    done = launched(workplace, run_dir, 3, "--mixed_precision", "no")
    assert done.returncode == 0, done.stderr
    assert losses(run_dir) == losses(with_ddp)
    assert trained_samples(run_dir) == trained_samples(with_ddp)


@pytest.mark.matrix
def test_a_run_of_accelerate_killed_and_resumed_has_the_bits_of_one_left_alone(
    workplace: Workplace, with_ddp: RunDir
) -> None:
    run_dir = workplace.job("accelerate-killed", 3, *OVERRIDES, "engine=accelerate")
    kill_after_step(workplace.start(run_dir), run_dir, 6, victim=1)
    finish(workplace.start(run_dir), run_dir)
    assert losses(run_dir) == losses(with_ddp)
    assert trained_samples(run_dir) == trained_samples(with_ddp)


def test_what_accelerate_launch_asks_for_against_the_recipe_is_refused_whatever_the_engine(
    workplace: Workplace,
) -> None:
    run_dir = workplace.job("accelerate-contradicts", 2)
    done = launched(workplace, run_dir, 2, "--mixed_precision", "bf16")
    assert done.returncode != 0
    assert (
        "error: environment: ACCELERATE_MIXED_PRECISION=bf16, but the recipe says precision=fp32. Instead: precision=bf16 "
        "in the recipe, or `no` for accelerate"
    ) in done.stderr
    assert not run_dir.metrics.exists()


def test_a_config_file_that_contradicts_the_cluster_is_refused_by_the_plan(workplace: Workplace) -> None:
    (workplace.folder / "mine.yaml").write_text("distributed_type: MULTI_CPU\nnum_processes: 8\n")
    engine = "engine={name: accelerate, config_file: mine.yaml}"
    done = workplace.megabatch("plan", "recipe.yaml", "cluster.processes_per_node=2", engine)
    assert done.returncode == 2
    assert "mine.yaml:2:1: num_processes: 8, but the cluster says nodes=1 and processes_per_node=2" in done.stderr
    (workplace.folder / "mine.yaml").write_text("distributed_type: MULTI_CPU\nnum_processes: 2\n")
    assert workplace.megabatch("plan", "recipe.yaml", "cluster.processes_per_node=2", engine).returncode == 0
