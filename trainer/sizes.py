"""`python -m megabatch.trainer.sizes RUN_DIR...`: sizes and times of the networks of runs, as JSON.

The launcher runs this in a process of its own, where runs are compared. Times are those of this CPU, one
thread, the networks in turn, so that whatever else the machine does slows all of them.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from megabatch.configs.load import read_job
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import checkpoint
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.export.card import card_of
from megabatch.trainer.export.formats import Predict
from megabatch.trainer.export.network import plain_network_of
from megabatch.trainer.outputs import read_outputs
from megabatch.trainer.pruning.channels import flops_of
from megabatch.trainer.pruning.plan import plan_of

BATCHES = (1, 32)
_SECONDS = 0.5  # for each batch and network
_FEWEST = 10  # passes


def main(arguments: Sequence[str]) -> int:
    """Print what was measured."""
    runs = [RunDir(Path(folder)) for folder in arguments]
    try:
        print(json.dumps(compare(runs)))
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def compare(runs: Sequence[RunDir]) -> list[dict[str, Any]]:
    """Return sizes and times of the best checkpoint of each run. Raises TrainingError if one has none."""
    return measured([_network(run) for run in runs], read_job(runs[0].job).recipe.data.image_size)


def measured(networks: Sequence[nn.Module], image_size: int) -> list[dict[str, Any]]:
    """Return sizes, and milliseconds for 1 and for 32 images, of networks on the CPU in evaluation mode."""
    found, threads = [sizes(network, image_size) for network in networks], torch.get_num_threads()
    torch.set_num_threads(1)
    for batch in BATCHES:
        times = seconds_in_turn(networks, torch.zeros(batch, 3, image_size, image_size))
        for values, seconds in zip(found, times, strict=True):
            values[f"milliseconds_{batch}"] = 1000 * seconds
    torch.set_num_threads(threads)
    return found


def sizes(network: nn.Module, image_size: int) -> dict[str, Any]:
    """Return parameters, those that are not zero, operations for one image, and the bytes of a safetensors file."""
    parameters = list(network.parameters())
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "nonzero": sum(int(parameter.count_nonzero()) for parameter in parameters),
        "flops": flops_of(network, image_size),
        "bytes": len(save(tensors)),
    }


@torch.no_grad()
def seconds_in_turn(predictors: Sequence[Predict], images_NCHW: torch.Tensor) -> list[float]:
    """Return the median time of a pass of each network, or of whatever predicts."""
    times: list[list[float]] = [[] for _ in predictors]
    for predict in predictors:
        predict(images_NCHW)
    until = time.perf_counter() + _SECONDS * len(predictors)
    while time.perf_counter() < until or len(times[-1]) < _FEWEST:
        for predict, own in zip(predictors, times, strict=True):
            started = time.perf_counter()
            predict(images_NCHW)
            own.append(time.perf_counter() - started)
    return [statistics.median(own) for own in times]


def _network(run_dir: RunDir) -> nn.Module:
    job = read_job(run_dir.job)
    if job.working_folder not in sys.path:
        sys.path.insert(0, job.working_folder)
    folder = checkpoint.chosen(run_dir, "best")
    card = card_of(job, read_outputs(run_dir, job), folder.name, "averaged", plan_of(job, run_dir))
    return plain_network_of(card, checkpoint.load_network(folder))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
