"""Batch norm in groups, over the ranks, frozen, and with statistics taken anew: real ranks against one process."""

from __future__ import annotations

import json

import pytest
import torch

from megabatch.configs.metrics import read_metrics
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import checkpoint
from support.runs import Workplace, finish, kill_after_step, losses

pytestmark = pytest.mark.processes
SHORT = ("epochs=8", "checkpoint.every_epochs=8", "precision=fp64", "data.validation_split=validation")
PRECISE = {"samples": 30}
TRAINED = """\
from network import nn, small

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
    """Return the network of the last checkpoint."""
    return checkpoint.load_network(checkpoint.chosen(run_dir, "last"), averaged=False)


def evaluations(run_dir: RunDir) -> list[float]:
    return [line["loss"] for line in read_metrics(run_dir.metrics, "evaluation")]


def assert_alike(run_dir: RunDir, reference: RunDir) -> None:
    assert len(losses(reference)) == 24
    assert losses(run_dir) == pytest.approx(losses(reference), rel=1e-9)
    assert evaluations(run_dir) == pytest.approx(evaluations(reference), rel=1e-9)
    assert len(evaluations(reference)) == 8
    got = weights(run_dir)
    for name, expected in weights(reference).items():
        torch.testing.assert_close(got[name], expected, rtol=1e-8, atol=1e-10)


def test_groups_of_4_are_micro_batches_of_4(workplace: Workplace) -> None:
    """On 2 ranks, in micro-batches of 8, 8 and 4, and with a short step of 4 at the end of every epoch.

    The average is evaluated with statistics of its own; the network beside it keeps its running ones.
    """
    alone = workplace.train("norms-alone", 1, *SHORT, "averaging=ema", model(precise_statistics=PRECISE))
    ghost = model(batch_norm={"name": "ghost", "samples": 4}, precise_statistics=PRECISE)
    assert_alike(workplace.train("norms-ghost", 2, *SHORT, "averaging=ema", ghost, "batch.micro_batch=8"), alone)
    averaged = checkpoint.load_network(checkpoint.chosen(alone, "last"))
    assert not torch.allclose(averaged["1.running_mean"], weights(alone)["1.running_mean"], rtol=1e-3)


@pytest.fixture(scope="module")
def synchronized(workplace: Workplace) -> RunDir:
    return workplace.train(
        "norms-synchronized", 3, *SHORT, model(batch_norm="synchronized", precise_statistics=PRECISE)
    )


def test_synchronized_ranks_are_one_process_with_all_of_their_samples(
    workplace: Workplace, synchronized: RunDir
) -> None:
    """A step has 5 micro-batches of 4 for 3 ranks, the last of an epoch has one: some take part without samples."""
    one = workplace.train("norms-one", 1, *SHORT, model(precise_statistics=PRECISE), "batch.micro_batch=12")
    assert_alike(synchronized, one)
    without = workplace.train("norms-without", 1, *SHORT, model(), "batch.micro_batch=12")
    assert losses(without) == losses(one)
    assert evaluations(without)[0] != pytest.approx(evaluations(one)[0], rel=1e-3)


@pytest.mark.matrix
def test_killed_and_resumed_they_end_with_the_same_bits(workplace: Workplace, synchronized: RunDir) -> None:
    overrides = (*SHORT, model(batch_norm="synchronized", precise_statistics=PRECISE), "checkpoint.every_steps=4")
    run_dir = workplace.job("norms-killed", 3, *overrides)
    kill_after_step(workplace.start(run_dir), run_dir, 10, victim=2)
    finish(workplace.start(run_dir), run_dir)
    assert losses(run_dir) == losses(synchronized)
    assert evaluations(run_dir)[-1] == evaluations(synchronized)[-1]
    for name, expected in weights(synchronized).items():
        assert torch.equal(weights(run_dir)[name], expected), name


def test_frozen_statistics_and_their_affine_parameters_do_not_move(workplace: Workplace) -> None:
    (workplace.folder / "trained.py").write_text(TRAINED)
    chosen = json.dumps({"name": "trained:trained", "batch_norm": "frozen"})
    run_dir = workplace.train("norms-frozen", 2, *SHORT, f"model={chosen}")
    tensors = weights(run_dir)
    assert tensors["1.running_mean"].eq(0.25).all()
    assert tensors["4.running_var"].eq(0.5).all()
    assert tensors["4.num_batches_tracked"] == 0
    assert tensors["1.weight"].eq(1).all()
    assert losses(run_dir)[-1] < losses(run_dir)[0]
