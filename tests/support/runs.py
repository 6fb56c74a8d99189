"""Real runs for tests: a recipe in an empty folder, ranks started by torchrun, and what they left behind."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabatch.configs.metrics import read_metrics
from megabatch.configs.parent import descendants
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.command import node_command
from megabatch.launcher.prepare import prepare
from megabatch.launcher.save_job import new_run_dir
from support.ranks import train_together

RECIPE = """\
name: tiny
epochs: 2
data:
  path: data
  image_size: 8
  validation_split: null
  test_split: null
  train_transforms:
    - {name: random_crop, padding: 1}
    - horizontal_flip
  shuffle: {streams: 4, window_shards: 2, block_samples: 3}
model: {name: "network:small"}
batch: {global_batch: 20, micro_batch: 4}
optimizer: {name: sgd, base_learning_rate: 0.05, scaling: none, weight_decay: 1e-3}
schedule: {name: cosine, warmup: 1}
regularization: {label_smoothing: 0.1, clip_norm: 1.0}
tracking: {sample_log: true}
"""

NETWORK = """\
from torch import nn

def small(num_classes, norm=True, dropout=0.2):
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6) if norm else nn.Identity(), nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(8, num_classes),
    )
"""

UNHURRIED = """

def unhurried(num_classes):
    import time
    network = small(num_classes)
    network.register_forward_pre_hook(lambda *_: time.sleep(0.02))
    return network
"""

UNUSED = """

class Unused(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.used, self.unused = small(num_classes), nn.Linear(3, 3)

    def forward(self, images):
        return self.used(images)
"""


@dataclass
class Workplace:
    """A user's folder: recipe.yaml, network.py and data/."""

    folder: Path

    def write(self) -> None:
        (self.folder / "recipe.yaml").write_text(RECIPE)
        (self.folder / "network.py").write_text(NETWORK + UNUSED + UNHURRIED)

    def megabatch(self, *arguments: str, timeout: int = 300) -> subprocess.CompletedProcess[str]:
        """Run the command line as a user does."""
        command = [sys.executable, "-c", "from megabatch.launcher.cli import main; main()", *arguments]
        return subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=timeout, check=False, env=environment()
        )

    def popen(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the command line and leave it running."""
        command = [sys.executable, "-c", "from megabatch.launcher.cli import main; main()", *arguments]
        return subprocess.Popen(
            command, cwd=self.folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def job(self, run: str, num_ranks: int, *overrides: str) -> RunDir:
        """Write RUN/job.yaml as `launch --dry-run --write` does; leave one that is there as it is."""
        run_dir = RunDir(self.folder / run)
        if not run_dir.job.exists():
            before = Path.cwd()
            os.chdir(self.folder)
            try:
                job = prepare("recipe.yaml", "laptop", [f"cluster.processes_per_node={num_ranks}", *overrides]).job
                new_run_dir(job, run_dir.root)
            finally:
                os.chdir(before)
        return run_dir

    def start(self, run_dir: RunDir) -> subprocess.Popen[bytes]:
        """Start the ranks as the launcher does, with nobody above them."""
        command = node_command(run_dir.job)
        return subprocess.Popen(
            command, cwd=self.folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def start_alone(self, run_dir: RunDir, before: str = "", **options: Any) -> subprocess.Popen[str]:
        """Start the one rank of a job with no process above it, in a shell that does `before` first (limits, mounts)."""
        ours = shlex.join([sys.executable, "-m", "megabatch.trainer", str(run_dir.job)])
        command = ["bash", "-c", f"{before}\nexec {ours}"]
        options = options or {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, cwd=self.folder, env=environment(), text=True, **options)

    def train(self, run: str, num_ranks: int, *overrides: str) -> RunDir:
        """Train to the end, with ranks that torchrun has started (ranks.py)."""
        run_dir = self.job(run, num_ranks, *overrides)
        failed = train_together([run_dir], num_ranks)
        assert not failed, failed
        return run_dir


def environment() -> dict[str, str]:
    """Return the environment of the ranks: one thread each, as the launcher sets it."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}


def finish(process: subprocess.Popen[bytes], run_dir: RunDir, timeout: int = 300) -> None:
    """Wait for a run that must end well."""
    code = process.wait(timeout=timeout)
    failures = "\n".join(file.read_text() for file in run_dir.failures())
    assert code == 0, f"exit code {code}\n{failures}"


def kill_after_step(process: subprocess.Popen[bytes], run_dir: RunDir, step: int, victim: int) -> None:
    """SIGKILL the `victim`-th descendant of the process once the metrics show `step`; wait for the rest to end."""
    deadline = time.monotonic() + 300
    while process.poll() is None and steps_done(run_dir) < step:
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.001)
    ranks = descendants(process.pid)
    assert ranks, "the run ended before it could be killed"
    os.kill(ranks[victim % len(ranks)], signal.SIGKILL)
    assert process.wait(timeout=300) != 0


def is_of_run(pid: int, run_dir: RunDir) -> bool:
    """Return whether a process of this machine is one of the run: all of them have a log of it open."""
    logs = f"{run_dir.logs.resolve()}{os.sep}"
    with suppress(OSError):  # it has ended
        for opened in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if str(opened.readlink()).startswith(logs):
                    return True
    return False


def steps_done(run_dir: RunDir) -> int:
    """Return the last step in metrics.jsonl."""
    if not run_dir.metrics.exists():
        return 0
    lines = read_metrics(run_dir.metrics, "step")
    return lines[-1]["step"] if lines else 0


def wait_for_step(run_dir: RunDir, step: int, *processes: subprocess.Popen[Any]) -> None:
    """Wait until the run has done a step; none of the processes may end before."""
    deadline = time.monotonic() + 300
    while steps_done(run_dir) < step:
        assert time.monotonic() < deadline, "the run does not get on"
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)


def losses(run_dir: RunDir) -> list[float]:
    """Return the loss of every step, in order; each step exactly once."""
    lines = read_metrics(run_dir.metrics, "step")
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


def trained_samples(run_dir: RunDir) -> list[list[int]]:
    """Return the sample ids of every step in the order of the micro-batches, over all ranks.

    A step trained again after a restart counts as it was trained last; each micro-batch must then agree.
    """
    steps: dict[int, dict[int, list[int]]] = {}
    for file in sorted((run_dir.root / "samples").glob("*.jsonl")):
        for text in file.read_text().splitlines():
            line: dict[str, Any] = json.loads(text)
            numbers = steps.setdefault(line["step"], {})
            assert numbers.get(line["number"], line["sample_ids"]) == line["sample_ids"], "trained again with others"
            numbers[line["number"]] = line["sample_ids"]
    return [[i for number in sorted(steps[step]) for i in steps[step][number]] for step in sorted(steps)]
