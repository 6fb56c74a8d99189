"""Every engine is started by torchrun, by accelerate launch and by DeepSpeed's launcher, by hand or by us: the same training.

tests/cluster has the starts by srun.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from megabatch.configs.parent import descendants
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import loop
from support.runs import Workplace, environment, finish, losses, steps_done, trained_samples, wait_for_step
from support.training import training

pytestmark = pytest.mark.processes
ENGINES = {
    "ddp": "ddp", "fsdp": "{name: fsdp, min_parameters: 100}", "deepspeed": "{name: deepspeed, zero_stage: 2}",
    "accelerate": "accelerate",
}  # fmt: skip
# What a user's shell finds under these names; here in this interpreter, whatever is on the PATH.
PROGRAMS = {
    "torchrun": "torch.distributed.run", "accelerate launch": "accelerate.commands.launch",
    "deepspeed": "deepspeed.launcher.runner",
}  # fmt: skip
# Other tests start ranks with our own starter, test_accelerate.py its own by accelerate launch.
ON_EVERY_CHANGE = {("ddp", "torchrun"), ("fsdp", "accelerate launch"), ("deepspeed", "deepspeed")}
PAGE = Path(__file__).parents[2] / "docs" / "hosts.md"


def free_port() -> str:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return str(opened.getsockname()[1])


def command(launcher: str, run_dir: RunDir) -> list[str]:
    """Return the line of docs/hosts.md that starts two ranks, for a run folder, and for a port that no other test has."""
    (line,) = [line for line in PAGE.read_text().splitlines() if line.startswith(f"{launcher} ")]
    line = line.removeprefix(launcher).replace("my-run", shlex.quote(str(run_dir.root)))
    port = ["--master_port", free_port()] if launcher == "deepspeed" else []
    return [sys.executable, "-m", PROGRAMS[launcher], *port, *shlex.split(line, comments=True)]


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
        for launcher in PROGRAMS
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


@pytest.mark.matrix
@pytest.mark.parametrize("backend", ["accelerate", "deepspeed"])
def test_launched_with_another_launcher_it_stops_and_goes_on(workplace: Workplace, backend: str) -> None:
    overrides = ["epochs=8", "model.name=network:unhurried", "checkpoint.every_epochs=8"]
    run_dir = RunDir(workplace.folder / f"launched-by-{backend}")
    chosen = f"cluster.backend={{name: {backend}, port: {free_port()}}}"
    run = workplace.popen("launch", "recipe.yaml", *overrides, chosen, "--run-dir", run_dir.root.name)
    wait_for_step(run_dir, 5, run)
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=100) == 3
    at = steps_done(run_dir)
    assert run_dir.checkpoint(at).is_dir()
    assert at < 24
    if backend == "accelerate":  # with the other the same, and slower
        run = workplace.popen("launch", "--resume", run_dir.root.name)
        wait_for_step(run_dir, at + 2, run)
        below = descendants(run.pid)
        os.kill(below[0], signal.SIGKILL)  # torchrun's ranks would live on
        assert run.wait(timeout=60) == 1
        assert not [pid for pid in below if Path(f"/proc/{pid}").exists()]
    finish(workplace.popen("launch", "--resume", run_dir.root.name), run_dir)
    reference = workplace.train("launched-by-us", 2, *overrides)
    assert losses(run_dir) == losses(reference)
    assert trained_samples(run_dir) == trained_samples(reference)


@pytest.mark.parametrize(
    "backend",
    [
        "accelerate",
        pytest.param("deepspeed", marks=pytest.mark.matrix),
        pytest.param("ssh, hosts: [localhost, other]", marks=pytest.mark.matrix),
    ],
)
def test_what_is_shown_for_several_nodes_can_be_pasted(workplace: Workplace, reference: RunDir, backend: str) -> None:
    name = f"pasted-{backend.partition(',')[0]}"
    chosen = f"cluster.backend={{name: {backend}, address: 127.0.0.1, port: {free_port()}}}"
    nodes = ["epochs=3", "cluster.nodes=2", "cluster.processes_per_node=1", chosen]
    shown = workplace.megabatch("launch", "recipe.yaml", *nodes, "--dry-run", "--write", name)
    assert shown.returncode == 0, shown.stderr
    lines = re.findall(r"^# on .*\n(cd .*)$", shown.stdout, re.MULTILINE)
    assert len(lines) == 2
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    nodes_running = [
        subprocess.Popen(["bash", "-c", line], cwd="/", env={**os.environ, "PYTHONWARNINGS": "default"}, **quiet)
        for line in lines
    ]
    run_dir = RunDir(workplace.folder / name)
    for node in nodes_running:
        finish(node, run_dir)
    assert losses(run_dir) == pytest.approx(losses(reference), rel=1e-5)
    assert trained_samples(run_dir) == trained_samples(reference)
