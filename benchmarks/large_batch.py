"""How far the batch can grow: CIFAR-10, a small network, five ways to follow the batch with the learning rate.

megabatch data import cifar10-jpeg.zip data/cifar10 --split train=0.9,validation=0.1
python benchmarks/large_batch.py data/cifar10 FOLDER [--seeds 2] [--parallel 2] [--plot large-batch.svg]

Each cell is a run of `megabatch launch` with one rank, in FOLDER/NAME; `--parallel` cells at a time. A cell that is
finished is not run again and one that was interrupted goes on, so that the table may be made in several sittings.
Prints a table of test accuracies (mean and range over the seeds) and writes FOLDER/results.json. All cells see the same
number of epochs but the last row, which has 1.5 times as many; the micro-batch, and with it batch norm, stays the same.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean

EPOCHS = 20
BATCHES = (128, 512, 2048, 4096)
BASE_BATCH = 128
LONGER = 1.5  # the last row: 32 times the base batch for this many times the epochs

# Learning rates were chosen with seed 100 on the validation split: SGD at 128, the others at 2,048.
OPTIMIZERS = {
    "SGD, not scaled": "{name: sgd, base_learning_rate: 0.1, base_batch: 128, scaling: none, momentum: 0.9, "
    "weight_decay: 0.0005}",
    "Nesterov, linear": "{name: sgd, base_learning_rate: 0.05, base_batch: 128, scaling: linear, momentum: 0.9, "
    "nesterov: true, weight_decay: 0.0005}",
    "LARS": "{name: lars, base_learning_rate: 1.0, base_batch: 128, scaling: linear, momentum: 0.9, "
    "weight_decay: 0.0005}",
    "LAMB": "{name: lamb, base_learning_rate: 0.0125, base_batch: 128, scaling: sqrt, beta2: 0.98, "
    "weight_decay: 0.002}",
    "Muon": "{name: timm/nmuon, base_learning_rate: 0.015, base_batch: 128, scaling: sqrt, weight_decay: 0.05}",
}


@dataclass(frozen=True)
class Cell:
    """One run."""

    optimizer: str
    batch: int
    epochs: int
    seed: int

    @property
    def name(self) -> str:
        """Return the name of its folder."""
        words = self.optimizer.lower().replace(",", "").replace(" ", "-")
        return f"{words}-{self.batch}-{self.epochs}-seed{self.seed}"

    def overrides(self, data: Path) -> list[str]:
        """Return the recipe, as changes to `cifar10`."""
        warmup = 0 if self.optimizer == "SGD, not scaled" else 2
        return [
            f"name={self.name}", f"seed={self.seed}", f"epochs={self.epochs}", f"data.path={data}",
            "model={name: 'large_batch:network', options: {}}",
            f"batch={{global_batch: {self.batch}, micro_batch: 128}}",
            f"optimizer={OPTIMIZERS[self.optimizer]}", f"schedule={{name: cosine, warmup: {warmup}}}",
            "precision=fp32", "regularization.label_smoothing=0", "evaluation.every_epochs=5",
            "checkpoint.every_epochs=5", "tracking.every_steps=10", "cluster.processes_per_node=1",
        ]  # fmt: skip


def network(num_classes: int) -> object:
    """Return a residual network of 117,000 parameters that halves the image at once: 7,000 images/s on a core."""
    from torch import nn

    from megabatch.trainer.models.convnet import Residual, conv_norm_relu

    widths = (16, 32, 64)
    layers = [conv_norm_relu(3, widths[0], stride=2)]
    for width_in, width_out in pairwise(widths):
        layers += [conv_norm_relu(width_in, width_out, stride=2), Residual(width_out)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes))


def cells(seeds: int) -> Iterator[Cell]:
    """Yield all cells: those of all optimizers and batches for a seed before those of the next one."""
    for seed in range(seeds):
        for optimizer in OPTIMIZERS:
            for batch in BATCHES:
                yield Cell(optimizer, batch, EPOCHS, seed)
            yield Cell(optimizer, BATCHES[-1], int(EPOCHS * LONGER), seed)


def run(cell: Cell, data: Path, folder: Path) -> dict[str, object]:
    """Run a cell, or what is left of it, and return what RUN_DIR/result.json says; a diverged one has an "error"."""
    run_dir = folder / cell.name
    result = run_dir / "result.json"
    failed = folder / f"{cell.name}.failed"
    if failed.exists():
        return {"error": failed.read_text(encoding="utf-8")}
    if not result.exists() or "test" not in json.loads(result.read_text(encoding="utf-8")):  # else it was stopped
        new = ["cifar10", "--run-dir", str(run_dir), *cell.overrides(data)]
        command = ["megabatch", "launch", *(["--resume", str(run_dir)] if run_dir.exists() else new)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
        if done.returncode == 1 and "the loss is" in done.stdout + done.stderr:  # it diverged: that is a result
            failed.write_text((done.stdout + done.stderr)[-2000:], encoding="utf-8")
            return {"error": "diverged"}
        if done.returncode:
            sys.exit(f"{cell.name}: {done.stdout}{done.stderr}")
    found: dict[str, object] = json.loads(result.read_text(encoding="utf-8"))
    print(f"{cell.name}: {found['test']['top1']:.2%} in {found['seconds']:.0f} s", flush=True)  # type: ignore[index]
    return found


def table(results: dict[Cell, dict[str, object]]) -> str:
    """Return the test accuracies as a Markdown table, one row for each batch and number of epochs."""
    rows = dict.fromkeys((cell.batch, cell.epochs) for cell in results)
    lines = [f"| batch | epochs | {' | '.join(OPTIMIZERS)} |", "| ---: | ---: |" + " ---: |" * len(OPTIMIZERS)]
    for batch, epochs in sorted(rows, key=lambda row: (row[1], row[0])):
        shown = [_shown(accuracies(results, optimizer, batch, epochs)) for optimizer in OPTIMIZERS]
        lines.append(f"| {batch:,} | {epochs} | {' | '.join(shown)} |")
    return "\n".join(lines)


def accuracies(results: dict[Cell, dict[str, object]], optimizer: str, batch: int, epochs: int) -> list[float]:
    """Return the test accuracies of all seeds; a run that diverged has that of a guess, 0.1."""
    return [
        found["test"]["top1"] if "test" in found else 0.1  # type: ignore[index]
        for cell, found in results.items()
        if (cell.optimizer, cell.batch, cell.epochs) == (optimizer, batch, epochs)
    ]


def _shown(values: list[float]) -> str:
    if not values:
        return ""
    half_range = (max(values) - min(values)) / 2
    return f"{mean(values):.2%} ± {100 * half_range:.2f}" + (" (diverged)" if min(values) == 0.1 else "")


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    folder, data = arguments.folder.absolute(), arguments.data.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = list(cells(arguments.seeds))
    with ThreadPoolExecutor(arguments.parallel) as pool:
        results = dict(zip(wanted, pool.map(lambda cell: run(cell, data, folder), wanted), strict=True))
    named = {cell.name: {"cell": vars(cell), **found} for cell, found in results.items()}
    (folder / "results.json").write_text(json.dumps(named, indent=1), encoding="utf-8")
    print(table(results))
    if arguments.plot:
        arguments.plot.write_text(plot(results), encoding="utf-8")


def plot(results: dict[Cell, dict[str, object]]) -> str:
    """Return a picture of test accuracy over the batch, a line for each optimizer, as SVG."""
    colors = ("#777777", "#0072b2", "#d55e00", "#009e73", "#cc79a7")
    means = {o: [mean(accuracies(results, o, batch, EPOCHS)) for batch in BATCHES] for o in OPTIMIZERS}
    low, high = 0.1, max(max(values) for values in means.values()) + 0.02
    place = {batch: 70 + 150 * number for number, batch in enumerate(BATCHES)}

    def height(value: float) -> float:
        return 320 - 280 * (max(value, low) - low) / (high - low)

    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 370" font-family="sans-serif" font-size="13">']
    parts.append('<rect width="700" height="370" fill="white"/>')
    for percent in range(10, int(100 * high) + 1, 10):
        y = height(percent / 100)
        parts.append(f'<path d="M70 {y:.0f}H520" stroke="#ddd"/><text x="30" y="{y + 4:.0f}">{percent} %</text>')
    parts += [f'<text x="{x}" y="345" text-anchor="middle">{batch:,}</text>' for batch, x in place.items()]
    parts.append(f'<text x="295" y="364" text-anchor="middle">samples a step ({EPOCHS} epochs of CIFAR-10)</text>')
    for number, (color, (optimizer, values)) in enumerate(zip(colors, means.items(), strict=True)):
        points = [(place[batch], height(value)) for batch, value in zip(BATCHES, values, strict=True)]
        line = " ".join(f"{x:.0f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2.5"/>')
        parts += [f'<circle cx="{x}" cy="{y:.1f}" r="4" fill="{color}"/>' for x, y in points]
        parts.append(f'<text x="545" y="{60 + 24 * number}" fill="{color}" font-weight="bold">{optimizer}</text>')
    return "\n".join([*parts, "</svg>"])


if __name__ == "__main__":
    main()
