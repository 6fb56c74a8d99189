"""How long a save holds up the training, beside torch.save and torch.distributed.checkpoint; and how soon a resume is.

    python benchmarks/checkpoint.py [--rounds 5] [--millions 100] [--data DATA_FOLDER]

A network of --millions parameters is trained with SGD and momentum on one core. What is timed is a save and the step
after it, less the mean of a step before and one after all is written: what a save in the background takes from the
step counts too. Every round has every variant, each time in another order, and waits for what is still being written
before the next one. Medians, and the medians of the ratios within a round. The limit is the bare copy of weights and
momentum into memory that is there already. Files go to --folder (default: a temporary one), synced where the variant
does so.

With --data (a data set of megabatch with a split train): the time to a first batch at the beginning and at 90 % of an
epoch, and webdataset's, which skips by reading.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from loader_variants import BATCH, _loader, _requests
from torch import nn
from torch.distributed.checkpoint import async_save

from megabatch.configs.evaluation import Checkpoint
from megabatch.configs.run_dir import RunDir
from megabatch.trainer.checkpoint import Snapshot
from megabatch.trainer.saver import Saver
from megabatch.trainer.saving_ranks import Alone
from megabatch.trainer.state import TrainState
from megabatch.trainer.trackers.base import Trackers

WIDTH = 2048
Save = Callable[[int], Callable[[], object]]  # begins a save of a step; returns what waits for its end


class Training:
    """A network, its optimizer, and a step."""

    def __init__(self, millions: int):
        layers = max(round(millions * 1e6 / WIDTH**2), 1)
        self.network = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers)))
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-6, momentum=0.9)
        self.inputs = torch.randn(8, WIDTH)
        self.step()

    def step(self) -> None:
        """Forward, backward, update."""
        self.network(self.inputs).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def snapshot(self) -> Snapshot:
        """Return weights and momentum, not copied."""
        momenta = {
            f"{name}/momentum_buffer": self.optimizer.state[parameter]["momentum_buffer"]
            for name, parameter in self.network.named_parameters()
        }
        return Snapshot(dict(self.network.state_dict()), momenta, {"training": {}})


def variants(training: Training, folder: Path) -> dict[str, Save]:
    """Return each way to save, by name."""
    saver = Saver(RunDir(folder / "megabatch"), Checkpoint(), Alone(), Trackers(()))
    copies: dict[str, torch.Tensor] = {}

    def megabatch(step: int) -> Callable[[], object]:
        saver.save(TrainState(step=step), training.snapshot(), set)
        return saver.wait

    def torch_save(step: int) -> Callable[[], object]:
        snapshot = training.snapshot()
        torch.save([snapshot.network, snapshot.optimizer], folder / "torch.pt")
        return lambda: None

    def dcp(step: int) -> Callable[[], object]:
        snapshot = training.snapshot()
        warnings.simplefilter("ignore")
        return async_save({**snapshot.network, **snapshot.optimizer}, checkpoint_id=folder / "dcp").result  # type: ignore[union-attr]

    def copy(step: int) -> Callable[[], object]:
        snapshot = training.snapshot()
        for name, tensor in {**snapshot.network, **snapshot.optimizer}.items():
            copies.setdefault(name, torch.empty_like(tensor)).copy_(tensor)
        return lambda: None

    return {"megabatch": megabatch, "torch.save": torch_save, "DCP async_save": dcp, "bare copy": copy}


def stalls(training: Training, saves: dict[str, Save], rounds: int) -> dict[str, list[float]]:
    """Return the seconds that each save added, round by round; the first round, which makes room, is left out."""
    added: dict[str, list[float]] = {name: [] for name in saves}
    for number in range(rounds + 1):
        names = list(saves)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            alone = timed(training.step)
            began = time.perf_counter()
            wait = saves[name](number)
            training.step()
            seconds = time.perf_counter() - began
            wait()
            if number:
                added[name].append(seconds - (alone + timed(training.step)) / 2)
    return added


def timed(act: Callable[[], None]) -> float:
    """Return the seconds that it takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def tell_stalls(added: dict[str, list[float]]) -> None:
    """Print medians and ratios."""
    for name, seconds in added.items():
        print(f"{name:15} {1e3 * statistics.median(seconds):8.0f} ms until the end of the next step")
    for name in [name for name in added if name != "megabatch"]:
        ratios = [ours / theirs for ours, theirs in zip(added["megabatch"], added[name], strict=True)]
        print(f"megabatch takes {statistics.median(ratios):.2f} of {name} ({min(ratios):.2f} to {max(ratios):.2f})")


def tell_resumes(folder: Path) -> None:
    """Print how long a first batch takes at both places."""
    import webdataset

    samples = _loader(folder, 1).reader.samples
    tars = [str(tar) for tar in sorted(folder.glob("train-*.tar"))]
    for share in (0.0, 0.9):
        start = int(share * samples) // BATCH * BATCH
        began = time.perf_counter()
        next(_loader(folder, 1).load(_requests([start], samples)))
        ours = time.perf_counter() - began
        began = time.perf_counter()
        stock = webdataset.WebDataset(tars, shardshuffle=False)
        next(itertools.islice(stock, start, None))
        theirs = time.perf_counter() - began
        print(
            f"at {share:.0%} of {samples:,} samples: first batch after {1e3 * ours:.0f} ms; webdataset's first sample, "
            f"not decoded, after {1e3 * theirs:.0f} ms"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--millions", type=int, default=100)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        training = Training(arguments.millions)
        tell_stalls(stalls(training, variants(training, folder), arguments.rounds))
    finally:
        shutil.rmtree(folder)
    if arguments.data:
        tell_resumes(arguments.data)


if __name__ == "__main__":
    main()
