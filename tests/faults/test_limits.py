"""F21 and F22: no shared memory, few files, little memory. It trains, or says in words what is too small."""

from __future__ import annotations

import subprocess
import sys

import pytest

from megabatch.launcher import memory_limits
from support.engine_cells import together
from support.runs import Workplace, environment, losses
from support.training import written_job

pytestmark = pytest.mark.processes


def in_a_shell(workplace: Workplace, before: str, command: list[str]) -> subprocess.CompletedProcess[str]:
    shell = ["bash", "-c", f'{before}\nexec "$0" "$@"', *command]
    return subprocess.run(
        shell, cwd=workplace.folder, env=environment(), capture_output=True, text=True, check=False, timeout=300
    )


def test_training_needs_no_shared_memory_whatever_the_engine(workplace: Workplace) -> None:
    """/dev/shm of 64 KiB, as containers have it: threads load, so nothing of a batch goes through it."""
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("a file system of its own for /dev/shm needs root (unshare -m)")
    engines = {"ddp": "ddp", "fsdp": "{name: fsdp, min_parameters: 100}", "ds": "{name: deepspeed, zero_stage: 2}"}
    offline = "tracking={sample_log: true, wandb: {project: demo, mode: offline}}"
    runs = [written_job(workplace, f"no-shm-{name}", 2, f"engine={engine}") for name, engine in engines.items()]
    runs.append(written_job(workplace, "no-shm-wandb", 2, offline))
    mount = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    done = in_a_shell(workplace, "", ["unshare", "-m", "bash", "-c", f'{mount} && exec "$0" "$@"', *together(runs, 2)])
    assert done.returncode == 0, done.stderr
    assert [len(losses(run_dir)) for run_dir in runs] == [6] * 4
    assert list((runs[-1].root / "wandb").glob("offline-run-*"))
    assert "Weights & Biases" not in runs[-1].metrics.read_text()


def test_few_open_files_are_made_more_and_where_that_is_not_allowed_the_limit_is_named(workplace: Workplace) -> None:
    """40 shards, an open file each."""
    from support.shards import dataset

    place = Workplace(workplace.folder / "many-shards")
    place.folder.mkdir()
    dataset(place.folder, {"train": 80}, samples_per_shard=1)
    place.write()
    soft, hard = (written_job(place, name, 1) for name in ("soft", "hard"))
    started = place.start_alone(soft, "ulimit -Sn 64"), place.start_alone(hard, "ulimit -n 64")
    assert [process.wait(timeout=300) for process in started] == [0, 2]
    told = "".join(file.read_text() for file in hard.failures())
    assert "Too many open files" in told
    assert "This process may open 64 files (`ulimit -Hn`), and a shard takes one: allow more" in told
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
        "import resource\n"
        "from torch import nn\n"
        "def large(num_classes):\n"
        "    resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4_000_000), nn.Linear(4_000_000, num_classes))\n"
    )
    run_dir = written_job(workplace, "large", 1, "model={name: 'large:large'}")
    process = workplace.start_alone(run_dir)
    assert process.wait(timeout=300) == 1
    (failure,) = run_dir.failures()
    assert '"kind": "TrainingError"' in failure.read_text()
    assert "out of memory: " in failure.read_text()
    assert "A smaller batch.micro_batch needs less and trains the same" in failure.read_text()
