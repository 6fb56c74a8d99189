"""Time from a command to its ranks' first collective and first training step, beside torchrun with the same ranks.

    python benchmarks/launch.py --rounds 5
    python benchmarks/launch.py --rounds 1 --ranks 16

On the CPU, with a small data set of random images in a temporary folder. Every round starts each of them once, in turn:

- torchrun, and our starter, with a script that imports torch, joins and sums one number
- torchrun, and our starter, with `megabatch.trainer` and one job
- `megabatch launch` with the same recipe, checks of data and model included
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

RECIPE = ("digits", "epochs=1", "schedule={name: constant, warmup: 0}", "batch.micro_batch=16")

SUM = """
import os
import time
from datetime import timedelta

import torch
import torch.distributed as dist


def main():
    rank, num_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if "MEGABATCH_STORE_SOCKET" in os.environ:
        from megabatch.trainer.node.meeting import store_of_meeting

        store = store_of_meeting(num_ranks, timedelta(seconds=60), os.environ)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=num_ranks)
    else:
        dist.init_process_group("gloo")
    number = torch.ones(1)
    dist.all_reduce(number)
    if rank == 0:
        print("at", time.time(), flush=True)
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    main()
    os._exit(0)
"""

STARTER = """
import sys, torch, torch.distributed
sys.path.insert(0, sys.argv[1])
import summing
from megabatch.trainer.node.meeting import meeting_on_this_machine
from megabatch.trainer.node.ranks import Stopping, run_ranks
num_ranks, meeting = int(sys.argv[2]), meeting_on_this_machine()
environments = {
    rank: {"WORLD_SIZE": str(num_ranks), "RANK": str(rank), "LOCAL_RANK": str(rank), **meeting.environment(rank)}
    for rank in range(num_ranks)
}
run_ranks(environments, summing.main, Stopping())
"""


def main() -> None:
    """Measure, and print the medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ranks", type=int, default=2)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="megabatch-launch-"))
    try:
        times = measure(folder, arguments.ranks, arguments.rounds)
    finally:
        shutil.rmtree(folder)
    for name, seconds in times.items():
        print(f"{name:45} {statistics.median(seconds):6.2f} s   ({min(seconds):.2f} to {max(seconds):.2f})")
    for ours, theirs in (
        ("our starter, first collective", "torchrun, first collective"),
        ("our starter, first step", "torchrun, first step"),
        ("megabatch launch, first step", "torchrun, first step"),
    ):
        pairs = [a / b for a, b in zip(times[ours], times[theirs], strict=True)]
        print(f"{ours} / {theirs}: {statistics.median(pairs):.2f}   ({min(pairs):.2f} to {max(pairs):.2f})")


def measure(folder: Path, num_ranks: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every round."""
    (folder / "summing.py").write_text(SUM)
    (folder / "starter.py").write_text(STARTER)
    run(folder, "megabatch", "data", "example", "images")
    run(folder, "megabatch", "data", "import", "images", "data/digits", "--split", "train=0.8,validation=0.1,test=0.1")
    torchrun = ["torchrun", "--standalone", "--nproc-per-node", str(num_ranks)]
    starter = [sys.executable, str(folder / "starter.py"), str(folder), str(num_ranks)]
    ways: dict[str, Callable[[int], float]] = {
        "torchrun, first collective": lambda _: first_sum(folder, [*torchrun, str(folder / "summing.py")]),
        "our starter, first collective": lambda _: first_sum(folder, starter),
        "torchrun, first step": lambda number: first_step(
            folder, written(folder, f"torchrun-{number}", num_ranks), [*torchrun, "-m", "megabatch.trainer"]
        ),
        "our starter, first step": lambda number: first_step(
            folder, written(folder, f"ours-{number}", num_ranks), [sys.executable, "-m", "megabatch.trainer.node"]
        ),
        "megabatch launch, first step": lambda number: launched(folder, f"launched-{number}", num_ranks),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            seconds = way(number)
            if number:  # the first round fills the caches of the file system
                times[name].append(seconds)
    return times


def run(folder: Path, *command: str) -> str:
    """Run a command to its end and return what it printed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment(), check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def first_sum(folder: Path, command: list[str]) -> float:
    """Return the seconds from a command until its ranks have summed a number."""
    began = time.time()
    printed = run(folder, *command)
    return float(next(line.split()[1] for line in printed.splitlines() if line.startswith("at "))) - began


def written(folder: Path, name: str, num_ranks: int) -> Path:
    """Write a job and return its file; not part of the measured time."""
    chosen = [*RECIPE, f"cluster.processes_per_node={num_ranks}", "--dry-run", "--write", name]
    run(folder, "megabatch", "launch", *chosen)
    return folder / name / "job.yaml"


def first_step(folder: Path, job: Path, command: list[str]) -> float:
    """Return the seconds from a command until its ranks have trained on the first batch; wait for the end."""
    began = time.time()
    run(folder, *command, str(job))
    return step_1(job.parent) - began


def launched(folder: Path, name: str, num_ranks: int) -> float:
    """Return the seconds from `megabatch launch` until the first batch is done; wait for the end."""
    began = time.time()
    run(folder, "megabatch", "launch", *RECIPE, f"cluster.processes_per_node={num_ranks}", "--run-dir", name)
    return step_1(folder / name) - began


def step_1(run_dir: Path) -> float:
    """Return when the first step was done."""
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return float(next(line["time"] for line in lines if line["kind"] == "step"))


def environment() -> dict[str, str]:
    """Return the environment of all commands: one thread a rank, and the programs of this Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "OMP_NUM_THREADS": "1", "PATH": path}


if __name__ == "__main__":
    main()
