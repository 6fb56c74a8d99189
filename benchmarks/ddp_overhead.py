"""What the trainer costs beside torch's DistributedDataParallel: ResNet-18 on two processes, over a loop by hand.

python benchmarks/ddp_overhead.py [--rounds 15] [--size 64] [--micro-batch 32]

Both train the same network with the same optimizer on the same micro-batches, ready in memory, over gloo on the CPU,
with one thread a process. Rounds are interleaved, each goes first in every other one; the ratio is the median over the
rounds of the time of a step of the trainer to that of the hand-written loop in the same round, with DDP as it comes and
with the option that spares a copy of the gradients.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import step_overhead
import torch
import torch.distributed as dist
from step_overhead import CLASSES, Clock, normalized
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torchvision.models import resnet18

from megabatch.configs.run_dir import RunDir
from megabatch.data.loader import MicroBatch
from megabatch.data.requests import Request
from megabatch.launcher.prepare import prepare
from megabatch.trainer.build import Parts, build
from megabatch.trainer.loop import train
from megabatch.trainer.optim.groups import parameter_groups
from megabatch.trainer.optim.standard import sgd
from megabatch.trainer.state import TrainState
from megabatch.trainer.world import join, read_world

RANKS = 2
WARMUP = 2  # steps of a round before the clock starts


def network(num_classes: int) -> nn.Module:
    """Return torchvision's ResNet-18 without trained weights."""
    made: nn.Module = resnet18(num_classes=num_classes)
    return made


def measure(folder: Path, rounds: int, size: int, micro_batch: int) -> None:
    """Run both loops in turns, in every rank; rank 0 prints."""
    torch.set_num_threads(1)
    parts = made_parts(folder, size, micro_batch)
    batches = [made_batch(parts, step, micro_batch) for step in range(4)]
    plain, views = by_hand(parts, views=False), by_hand(parts, views=True)
    runs = {
        "hand-written": lambda clock: train_by_hand(*plain, clock),
        "with gradient_as_bucket_view": lambda clock: train_by_hand(*views, clock),
        "megabatch": lambda clock: train(replace(parts, state=TrainState(), micro_batches_from=lambda _: iter(clock))),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name in list(runs)[:: -1 if number % 2 else 1]:
            dist.barrier()
            clock = Clock(batches, parts.steps.total, WARMUP)
            with redirect_stdout(io.StringIO()):
                runs[name](clock)
            if number:  # the first round warms up
                times[name].append(clock.microseconds)
    if parts.world.is_main:
        ours = times.pop("megabatch")
        print(f"{'megabatch':30} {statistics.median(ours) / 1000:8.2f} ms a step")
        for name, values in times.items():
            ratios = sorted(a / b for a, b in zip(ours, values, strict=True))
            low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
            print(
                f"{name:30} {statistics.median(values) / 1000:8.2f} ms a step, megabatch takes "
                f"{statistics.median(ratios):.4f} of it (half of the rounds: {low:.4f} to {high:.4f})"
            )
    parts.close()
    dist.destroy_process_group()


def made_parts(folder: Path, size: int, micro_batch: int) -> Parts:
    """Return this rank's training, as `megabatch launch` makes it."""
    os.chdir(folder)
    overrides = [
        "model={name: ddp_overhead:network}",
        f"data.image_size={size}",
        f"batch={{global_batch: {RANKS * micro_batch}, micro_batch: {micro_batch}}}",
        "optimizer={name: sgd, base_learning_rate: 0.01, momentum: 0.9, scaling: none}",
        "regularization.label_smoothing=0", "data.validation_split=null", "data.test_split=null",
        "data.train_transforms=[]", "checkpoint.every_epochs=1000000", "epochs=1", "schedule.warmup=0", "name=ddp",
        f"cluster.processes_per_node={RANKS}",
    ]  # fmt: skip
    job = prepare("digits", "laptop", overrides).job
    world = read_world(job.cluster, os.environ)
    join(world, job.cluster)
    return build(job, world, RunDir(folder / "run"), lambda: False)


def made_batch(parts: Parts, step: int, micro_batch: int) -> MicroBatch:
    """Return a random micro-batch for this rank, the only one of its step."""
    size, rank = parts.job.recipe.data.image_size, parts.world.rank
    generator = torch.Generator().manual_seed(RANKS * step + rank)
    ids = np.arange(micro_batch, dtype=np.int64)
    request = Request(step, 0, rank, ids, np.zeros_like(ids), RANKS * micro_batch, last=True)
    images = torch.randint(0, 256, (micro_batch, size, size, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, (micro_batch,), generator=generator)
    return MicroBatch(request, images, labels, torch.ones(micro_batch))


def by_hand(parts: Parts, views: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return network and optimizer as a person would make them."""
    made = network(CLASSES)
    if parts.job.recipe.model.channels_last:
        made = made.to(memory_format=torch.channels_last)
    settings = parts.job.recipe.optimizer
    return DistributedDataParallel(made, gradient_as_bucket_view=views), sgd(
        parameter_groups(made, settings), settings, 0.01
    )


def train_by_hand(parallel: nn.Module, optimizer: torch.optim.Optimizer, clock: Clock) -> None:
    """The loop that a person would write."""
    scale, shift = torch.full((3,), 0.01), torch.full((3,), -1.0)
    parallel.train()
    for batch in clock:
        loss = functional.cross_entropy(parallel(normalized(batch.images_NHWC, scale, shift)), batch.labels_N)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def main() -> None:
    """Make the data, start the ranks, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--micro-batch", type=int, default=32)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # set for the ranks
    arguments = parser.parse_args()
    if arguments.folder:
        measure(arguments.folder, arguments.rounds, arguments.size, arguments.micro_batch)
        return
    with tempfile.TemporaryDirectory() as folder:
        step_overhead.make_data(Path(folder))
        command = ["torchrun", f"--nproc-per-node={RANKS}", *sys.argv, "--folder", folder]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    main()
