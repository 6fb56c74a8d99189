"""What a step costs beside the network: the trainer and its peers over the same hand-written loop, in one process.

python benchmarks/step_overhead.py [--rounds 15] [--steps 2000]     # accelerate and lightning are used if installed

Everybody trains a small network on the same micro-batches, ready in memory, with momentum SGD over the same two groups
of parameters, and logs every 50 steps. Rounds are interleaved; the overhead is the median over the rounds of the
difference in time per step to the hand-written loop of the same round.

The hand-written loop has a constant learning rate, looks at the loss every 50 steps only, and cannot be resumed. The
trainer computes its schedule, seeds the network's random numbers, weighs each sample, and refuses a loss that is not
finite, all in every step; accelerate and lightning do not.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from megabatch.configs.run_dir import RunDir
from megabatch.data.loader import MicroBatch
from megabatch.data.requests import Request
from megabatch.launcher.prepare import prepare
from megabatch.trainer.build import Parts, build
from megabatch.trainer.loop import train
from megabatch.trainer.optim.groups import parameter_groups
from megabatch.trainer.optim.standard import sgd
from megabatch.trainer.state import TrainState
from megabatch.trainer.world import World

LOG_EVERY = 50
WARMUP = 100  # steps before the clock starts
SAMPLES = 128
CLASSES = 10
Contender = Callable[["Clock"], None]


def mlp(num_classes: int, width: int = 256) -> nn.Sequential:
    """Return a network whose step takes about a quarter of a millisecond."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, width), nn.ReLU(), nn.Linear(width, num_classes))


class Clock:
    """Gives out the micro-batches of `steps` steps, and takes the time of all but the first `warmup` and the last."""

    def __init__(self, batches: list[MicroBatch], steps: int, warmup: int = WARMUP):
        self.batches = batches
        self.steps = steps
        self.warmup = warmup
        self.started = self.stopped = 0.0

    def __iter__(self) -> Iterator[MicroBatch]:
        for step in range(self.steps):
            if step == self.warmup:
                self.started = time.perf_counter()
            if step == self.steps - 1:
                self.stopped = time.perf_counter()
            yield self.batches[step % len(self.batches)]

    @property
    def microseconds(self) -> float:
        """Return the time of a step."""
        return 1e6 * (self.stopped - self.started) / (self.steps - 1 - self.warmup)


def made_batches(parts: Parts, count: int) -> list[MicroBatch]:
    """Return random micro-batches of one step each."""
    generator = torch.Generator().manual_seed(0)
    size = parts.job.recipe.data.image_size
    samples = parts.job.recipe.batch.global_batch
    batches = []
    for step in range(count):
        ids = np.arange(samples, dtype=np.int64)
        request = Request(step, 0, 0, ids, np.zeros_like(ids), samples, last=True)
        images = torch.randint(0, 256, (samples, size, size, 3), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, CLASSES, (samples,), generator=generator)
        batches.append(MicroBatch(request, images, labels, torch.ones(samples)))
    return batches


def normalized(images_NHWC: torch.Tensor, scale_C: torch.Tensor, shift_C: torch.Tensor) -> torch.Tensor:
    """Return what the network sees, as the trainer computes it."""
    return images_NHWC.float().mul_(scale_C).add_(shift_C).permute(0, 3, 1, 2)


def contenders(parts: Parts) -> dict[str, Contender]:
    """Return the loops, the hand-written one first."""
    made = {"hand-written": by_hand, "megabatch": ours}
    try:
        import accelerate  # noqa: F401

        made["accelerate"] = with_accelerate
    except ImportError:
        print("accelerate is not installed: left out", file=sys.stderr)
    try:
        import lightning  # noqa: F401

        made |= {"Fabric": with_fabric, "Lightning Trainer": with_lightning}
    except ImportError:
        print("lightning is not installed: left out (pip install lightning)", file=sys.stderr)
    return {name: make(parts) for name, make in made.items()}


def _network_and_optimizer(parts: Parts) -> tuple[nn.Module, torch.optim.Optimizer, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    settings = parts.job.recipe.optimizer
    network = mlp(CLASSES)
    return (
        network,
        sgd(parameter_groups(network, settings), settings, 0.01),
        torch.full((3,), 0.01),
        torch.full((3,), -1.0),
    )


def by_hand(parts: Parts) -> Contender:
    """The loop that a person would write."""
    network, optimizer, scale, shift = _network_and_optimizer(parts)

    def run(clock: Clock) -> None:
        network.train()
        for step, batch in enumerate(clock):
            loss = functional.cross_entropy(network(normalized(batch.images_NHWC, scale, shift)), batch.labels_N)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if step % LOG_EVERY == 0:
                print(step, loss.item())

    return run


def ours(parts: Parts) -> Contender:
    """The trainer itself, with its trackers; only the loading of data is taken out."""

    def run(clock: Clock) -> None:
        train(replace(parts, state=TrainState(), micro_batches_from=lambda first_step: iter(clock)))

    return run


def with_accelerate(parts: Parts) -> Contender:
    """The hand-written loop with what accelerate's documentation puts in."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    network, optimizer, scale, shift = _network_and_optimizer(parts)
    prepared = accelerator.prepare(network, optimizer)
    return _wrapped(*prepared, scale, shift, accelerator.backward, accelerator.print)


def with_fabric(parts: Parts) -> Contender:
    """The hand-written loop with Lightning Fabric."""
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    network, optimizer, scale, shift = _network_and_optimizer(parts)
    return _wrapped(*fabric.setup(network, optimizer), scale, shift, fabric.backward, fabric.print)


def _wrapped(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scale: torch.Tensor,
    shift: torch.Tensor,
    backward: Callable[[torch.Tensor], None],
    show: Callable[..., None],
) -> Contender:
    def run(clock: Clock) -> None:
        network.train()
        for step, batch in enumerate(clock):
            loss = functional.cross_entropy(network(normalized(batch.images_NHWC, scale, shift)), batch.labels_N)
            backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            if step % LOG_EVERY == 0:
                show(step, loss.item())

    return run


def with_lightning(parts: Parts) -> Contender:
    """Lightning's Trainer, with its loggers, checkpoints and progress bar switched off."""
    import lightning

    network, optimizer, scale, shift = _network_and_optimizer(parts)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: MicroBatch, step: int) -> torch.Tensor:
            loss = functional.cross_entropy(self.network(normalized(batch.images_NHWC, scale, shift)), batch.labels_N)
            if step % LOG_EVERY == 0:
                print(step, loss.item())
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer

        def transfer_batch_to_device(self, batch: MicroBatch, device: torch.device, number: int) -> MicroBatch:
            return batch

    def run(clock: Clock) -> None:
        trainer = lightning.Trainer(
            accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, barebones=False,
        )  # fmt: skip
        trainer.fit(Module(), clock)

    return run


def one_process(rounds: int, steps: int) -> None:
    """Print the time of a step of every contender, and what it is above the hand-written loop."""
    with tempfile.TemporaryDirectory() as folder:
        parts = made_parts(Path(folder), steps)
        batches = made_batches(parts, 20)
        runs = contenders(parts)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(rounds):
            names = list(runs)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                clock = Clock(batches, parts.steps.total)
                with redirect_stdout(io.StringIO()):
                    runs[name](clock)
                times[name].append(clock.microseconds)
        parts.close()
    by_hand_times = times["hand-written"]
    print(f"{'':20} {'us a step':>10} {'above hand-written':>20}")
    for name, values in times.items():
        above = statistics.median(a - b for a, b in zip(values, by_hand_times, strict=True))
        print(f"{name:20} {statistics.median(values):10.1f} {above:20.1f}")


def make_data(folder: Path) -> None:
    """Write the digits to folder/data/digits."""
    for command in (
        ["data", "example", "images"],
        ["data", "import", "images", "data/digits", "--split", "train=0.9,validation=0.1"],
    ):
        subprocess.run(["megabatch", *command], check=True, capture_output=True, cwd=folder)


def made_parts(folder: Path, steps: int) -> Parts:
    """Return a training as `megabatch launch` makes it, of the small network over the digits."""
    make_data(folder)
    os.chdir(folder)
    overrides = [
        "model={name: step_overhead:mlp}",
        f"batch={{global_batch: {SAMPLES}, micro_batch: {SAMPLES}}}",
        "optimizer={name: sgd, base_learning_rate: 0.01, momentum: 0.9, scaling: none}",
        "regularization.label_smoothing=0",
        "data.validation_split=null",
        "data.test_split=null",
        "data.train_transforms=[]",
        f"tracking.every_steps={LOG_EVERY}",
        "checkpoint.every_epochs=1000000",
        "epochs=1000000",
    ]
    job = prepare("digits", "laptop", [*overrides, "cluster.processes_per_node=1"]).job
    epochs = steps * SAMPLES // 1617 + 1
    job = job.model_copy(update={"recipe": job.recipe.model_copy(update={"epochs": epochs})})
    torch.set_num_threads(1)
    return build(job, World(0, 1, 0, torch.device("cpu")), RunDir(folder / "run"), lambda: False)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=2000)
    arguments = parser.parse_args()
    one_process(arguments.rounds, arguments.steps)


if __name__ == "__main__":
    main()
