"""Every engine is started by torchrun, by accelerate launch and by DeepSpeed's launcher, by hand: the same training.

tests/cluster has the starts by srun.
"""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from megabatch.configs.run_dir import RunDir
from megabatch.trainer import loop
from support.runs import Workplace, environment, losses, trained_samples
from support.training import training

pytestmark = pytest.mark.processes
ENGINES = {
    "ddp": "ddp", "fsdp": "{name: fsdp, min_parameters: 100}", "deepspeed": "{name: deepspeed, zero_stage: 2}",
    "accelerate": "accelerate",
}  # fmt: skip
LAUNCHERS = ("torchrun", "accelerate launch", "deepspeed")
# Other tests start every engine by torchrun, test_accelerate.py its own by accelerate launch.
ON_EVERY_CHANGE = {("fsdp", "accelerate launch"), ("deepspeed", "deepspeed")}


def free_port() -> str:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return str(opened.getsockname()[1])


def command(launcher: str, run_dir: RunDir) -> list[str]:
    """Return how a user starts two ranks; what is behind the commands' names, in this interpreter."""
    module = ["-m", "megabatch.trainer", str(run_dir.job)]
    if launcher == "torchrun":
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *module]
    if launcher == "accelerate launch":
        options = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
        more = ["--dynamo_backend", "no", "--main_process_port", "0"]
        return [sys.executable, "-m", "accelerate.commands.launch", *options, *more, *module]
    options = ["--no_local_rank", "--num_gpus", "2", "--master_port", free_port(), "--module"]
    return [sys.executable, "-m", "deepspeed.launcher.runner", *options, *module[1:]]


@pytest.fixture(scope="module")
def reference(workplace: Workplace) -> RunDir:
    with training(workplace, "started-alone", "epochs=3") as parts:
        loop.train(parts)
        return parts.run_dir


@pytest.mark.parametrize(
    ("engine", "launcher"),
    [
        pytest.param(engine, launcher, marks=() if (engine, launcher) in ON_EVERY_CHANGE else pytest.mark.matrix)
        for engine in ENGINES
        for launcher in LAUNCHERS
    ],
)
def test_an_engine_trains_the_same_whoever_starts_it(
    workplace: Workplace, reference: RunDir, engine: str, launcher: str
) -> None:
    name = f"{engine}-by-{launcher.partition(' ')[0]}"
    run_dir = workplace.job(name, 2, "epochs=3", f"engine={ENGINES[engine]}")
    inside = {**environment(), "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        command(launcher, run_dir),
        cwd=workplace.folder, env=inside, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert losses(run_dir)[:5] == pytest.approx(losses(reference)[:5], rel=1e-5)
    assert trained_samples(run_dir) == trained_samples(reference)
    assert len(trained_samples(run_dir)) == 9
