"""F21 and F22: no shared memory, few files, little memory. It trains, or says in words what is too small."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from megabatch.data.errors import DataError
from megabatch.launcher import memory_limits
from megabatch.trainer import loop
from megabatch.trainer.causes import explained
from support.ranks import train_in_new_ranks
from support.runs import Workplace, environment, losses
from support.shards import dataset
from support.training import training

pytestmark = pytest.mark.processes


def in_a_shell(workplace: Workplace, before: str, command: list[str]) -> subprocess.CompletedProcess[str]:
    shell = ["bash", "-c", f'{before}\nexec "$0" "$@"', *command]
    return subprocess.run(
        shell, cwd=workplace.folder, env=environment(), capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.matrix
def test_training_needs_no_shared_memory_whatever_the_engine(workplace: Workplace) -> None:
    """/dev/shm of 64 KiB, as containers have it: threads load, so nothing of a batch goes through it."""
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("a file system of its own for /dev/shm needs root (unshare -m)")
    engines = {"ddp": "ddp", "fsdp": "{name: fsdp, min_parameters: 100}", "ds": "{name: deepspeed, zero_stage: 2}"}
    offline = "tracking={sample_log: true, wandb: {project: demo, mode: offline}}"
    more = {"ddp": [offline]}
    runs = [
        workplace.job(f"no-shm-{name}", 2, f"engine={engine}", *more.get(name, [])) for name, engine in engines.items()
    ]
    mount = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    failed = train_in_new_ranks(runs, 2, ["unshare", "-m", "bash", "-c", f'{mount} && exec "$0" "$@"'])
    assert not failed, failed
    assert [len(losses(run_dir)) for run_dir in runs] == [6] * 3
    assert list((runs[0].root / "wandb").glob("offline-run-*"))
    assert "Weights & Biases" not in runs[0].metrics.read_text()


@pytest.fixture
def many_shards(tmp_path: Path) -> Workplace:
    """80 shards, an open file each."""
    dataset(tmp_path, {"train": 80}, samples_per_shard=1)
    place = Workplace(tmp_path)
    place.write()
    return place


def test_few_open_files_are_made_as_many_as_are_allowed(many_shards: Workplace) -> None:
    run_dir = many_shards.job("soft", 1)
    assert many_shards.start_alone(run_dir, "ulimit -Sn 64").wait(timeout=300) == 0


def test_where_no_more_files_may_be_opened_the_shard_and_the_limit_are_named(many_shards: Workplace) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with training(many_shards, "hard") as parts:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 20, hard))
        try:
            with pytest.raises(DataError) as caught:
                loop.train(parts)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    told = str(caught.value)
    assert "data/train-0000" in told
    assert f"Too many open files. This process may open {hard:,} files (`ulimit -Hn`), and a shard takes one" in told
    assert "Was it moved" not in told


def test_too_little_memory_to_begin_with_is_told_without_a_traceback(workplace: Workplace) -> None:
    code = "from megabatch.launcher.cli import main; main()"
    command = [sys.executable, "-c", code, "plan", "recipe.yaml", "--model"]
    done = in_a_shell(workplace, "ulimit -v 1000000", command)
    assert done.returncode == 2
    assert "the model could not be inspected for want of memory" in done.stderr
    assert memory_limits.MEMORY_ADVICE in done.stderr
    assert "Traceback" not in done.stderr


def test_a_network_too_large_for_the_memory_is_told_with_a_remedy(workplace: Workplace) -> None:
    (workplace.folder / "large.py").write_text(
        "from torch import nn\n"
        "def large(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(192, 10**12), nn.Linear(10**12, num_classes))\n"
    )
    with pytest.raises(RuntimeError) as caught, training(workplace, "large", "model={name: 'large:large'}"):
        pass
    told = str(explained(caught.value))
    assert told.startswith("out of memory: ")
    assert "A smaller batch.micro_batch needs less and trains the same" in told
