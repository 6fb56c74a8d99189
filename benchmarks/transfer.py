"""What weights from half of the classes bring for the other half, of which few samples are there.

megabatch data import cifar10-jpeg.zip data/cifar10 --split train=0.9,validation=0.1
python benchmarks/transfer.py data/cifar10 FOLDER [--recipe cifar10-laptop] [--share 0.1] [--seeds 3]

A network is trained on the first half of the classes. Then, on `--share` of the training samples of the other half:
from scratch, from those weights, with all but the head frozen for the first half of the epochs, and the head alone. In
the last two the head has ten times the learning rate. Each cell is a run of `megabatch launch` with one rank in
FOLDER/NAME; one that is finished is not run again. Prints a table of test accuracies, their mean and range over the
seeds, and writes FOLDER/results.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean

from megabatch.data.dataset import read_dataset

ONE_RANK = ("cluster.processes_per_node=1", "cluster.loader_threads=1")


def main() -> None:
    """Run what is not finished, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipe", default="cifar10-laptop")
    parser.add_argument("--head", default="10.*", help="pattern of the head's parameters")
    parser.add_argument("--share", type=float, default=0.1, help="of the training samples of the other half")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-epochs", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=30, help="on the other half")
    parser.add_argument("--global-batch", type=int, default=128, help="on the other half")
    arguments = parser.parse_args()
    results = {
        name: [_accuracy(arguments, name, seed) for seed in range(arguments.seeds)] for name in _cells(arguments)
    }
    (arguments.folder / "results.json").write_text(json.dumps(results, indent=1))
    print("| | test accuracy | range |\n| --- | --- | --- |")
    for name, found in results.items():
        print(f"| {name} | {100 * mean(found):.1f} % | {100 * min(found):.1f} to {100 * max(found):.1f} % |")


def _cells(arguments: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """Return what each row of the table asks for, beside the data; FIRST stands for the run on the first half."""
    head = f"{{match: '{arguments.head}', learning_rate_factor: 10}}"
    later = f"optimizer.groups=[{head}, {{match: '*', frozen_until: {arguments.epochs / 2}}}]"
    probe = f"model.train={{name: head, match: '{arguments.head}'}}"
    start = f"model.pretrained={{source: FIRST, leave_out: ['{arguments.head}']}}"
    return {
        "from scratch": (),
        "from the first half": (start,),
        "the same, all but the head frozen for half of the epochs": (start, later),
        "the head alone": (start, probe, f"optimizer.groups=[{head}]"),
    }


def _accuracy(arguments: argparse.Namespace, name: str, seed: int) -> float:
    """Return the test accuracy of a cell."""
    classes = read_dataset(arguments.data).classes
    half = len(classes) // 2
    first = arguments.folder / f"first-{seed}"
    _launch(arguments, first, seed, classes[:half], f"epochs={arguments.first_epochs}")
    cell = arguments.folder / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
    wanted = [text.replace("FIRST", str(first)) for text in _cells(arguments)[name]]
    few = (f"data.hash_split={{train: {arguments.share}}}", f"batch.global_batch={arguments.global_batch}")
    micro_batch = f"batch.micro_batch={min(arguments.global_batch, 32)}"
    _launch(arguments, cell, seed, classes[half:], f"epochs={arguments.epochs}", *few, micro_batch, *wanted)
    result = json.loads((cell / "result.json").read_text())
    return float(result["test"]["top1"])


def _launch(arguments: argparse.Namespace, run: Path, seed: int, classes: tuple[str, ...], *overrides: str) -> None:
    """Run a training that is not finished yet. Ends this program if it fails."""
    result = run / "result.json"
    if result.exists() and json.loads(result.read_text())["outcome"] == "finished":
        return
    chosen = f"data.classes={json.dumps(classes)}"
    command = [
        sys.executable, "-c", "from megabatch.launcher.cli import main; main()", "launch", arguments.recipe,
        f"data.path={arguments.data.absolute()}", chosen, f"seed={seed}", *ONE_RANK, *overrides, "--run-dir", str(run),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{run} failed:\n{done.stderr}")


if __name__ == "__main__":
    main()
