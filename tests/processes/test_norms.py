"""Batch norm in groups, over the ranks, frozen, and with statistics taken anew: real ranks against one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megabatch.configs.metrics import read_metrics
from megabatch.configs.run_dir import RunDir
from support.runs import Workplace, losses

pytestmark = pytest.mark.processes
SHORT = ("epochs=8", "checkpoint.every_epochs=8", "precision=fp64", "data.validation_split=validation")
TRAINED = """

def trained(num_classes):
    network = small(num_classes, dropout=0.0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(0.25)
            module.running_var.fill_(0.5)
    return network
"""


def model(**keys: object) -> str:
    chosen = {"name": "network:small", "options": {"dropout": 0.0}, **keys}
    return f"model={json.dumps(chosen)}"


def weights(run_dir: RunDir) -> dict[str, torch.Tensor]:
    (folder,) = [one for one in run_dir.checkpoints.iterdir() if one.name.startswith("step-")][-1:]
    return load_file(next(file for file in Path(folder).glob("*.safetensors") if "optimizer" not in file.name))


def evaluations(run_dir: RunDir) -> list[float]:
    return [line["loss"] for line in read_metrics(run_dir.metrics, "evaluation")]


def assert_alike(run_dir: RunDir, reference: RunDir) -> None:
    assert len(losses(reference)) == 24
    assert losses(run_dir) == pytest.approx(losses(reference), rel=1e-9)
    assert evaluations(run_dir) == pytest.approx(evaluations(reference), rel=1e-9)
    assert len(evaluations(reference)) == 8


@pytest.fixture(scope="module")
def alone(workplace: Workplace) -> RunDir:
    """A micro-batch of 4, each normalized by itself."""
    return workplace.train("alone", 1, *SHORT, model())


def test_groups_of_4_are_micro_batches_of_4(workplace: Workplace, alone: RunDir) -> None:
    """On 2 ranks, in micro-batches of 8, 8 and 4, and with a short step of 4 at the end of every epoch."""
    ghost = model(batch_norm={"name": "ghost", "samples": 4})
    assert_alike(workplace.train("ghost", 2, *SHORT, ghost, "batch.micro_batch=8"), alone)


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_synchronized_ranks_are_one_process_with_all_of_their_samples(workplace: Workplace, num_ranks: int) -> None:
    """A step has 5 micro-batches of 4, the last of an epoch has one: some ranks take part without samples."""
    together = workplace.train(f"synchronized-{num_ranks}", num_ranks, *SHORT, model(batch_norm="synchronized"))
    one = workplace.train(f"one-of-{num_ranks}", 1, *SHORT, model(), f"batch.micro_batch={4 * num_ranks}")
    assert_alike(together, one)
