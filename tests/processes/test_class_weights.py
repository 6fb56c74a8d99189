"""Class weights: the same training as a plain loop of torch over whole batches, on any ranks and micro-batches."""

from __future__ import annotations

import copy
from itertools import groupby

import pytest
import torch
from torch.nn import functional

from megabatch.trainer import loop
from support.runs import Workplace, losses
from support.training import training

WEIGHTS = (0.5, 1.0, 3.0)
WEIGHTED = (
    "precision=fp64", "model.options={norm: false, dropout: 0.0}", "regularization={}", "schedule=constant",
    "optimizer={name: sgd, base_learning_rate: 0.05, scaling: none, momentum: 0.9, weight_decay: 1e-3}",
    f"loss={{name: cross_entropy, class_weights: [{', '.join(map(str, WEIGHTS))}]}}",
)  # fmt: skip


@pytest.fixture(scope="module")
def plain(workplace: Workplace) -> list[float]:
    """The losses of two epochs of 20, 20 and 4 samples: each batch whole, with the mean of torch.

    torch divides by the sum of the weights in the batch, the recipe by its samples; their ratio is the mean weight.
    """
    weights_K = torch.tensor(WEIGHTS, dtype=torch.float64)
    with training(workplace, "weighted-data", *WEIGHTED) as parts:
        network = copy.deepcopy(parts.step_parts.engine.network)
        loaded = list(parts.micro_batches_from(0))
        normalize = parts.step_parts.normalize
    batches = [list(group) for _, group in groupby(loaded, key=lambda micro_batch: micro_batch.request.step)]
    groups = [
        {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": 1e-3},
        {"params": [p for p in network.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    found = []
    for batch in batches:
        images_NCHW = normalize(torch.cat([micro_batch.images_NHWC for micro_batch in batch]))
        labels_N = torch.cat([micro_batch.labels_N for micro_batch in batch])
        loss = functional.cross_entropy(network(images_NCHW), labels_N, weights_K, reduction="mean")
        loss = loss * weights_K[labels_N].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert [sum(len(m.labels_N) for m in batch) for batch in batches[:3]] == [20, 20, 4]
    return found


@pytest.mark.parametrize("micro_batch", [20, 10, 5])
def test_one_two_or_four_micro_batches_are_the_plain_loop(
    workplace: Workplace, plain: list[float], micro_batch: int
) -> None:
    with training(workplace, f"weighted-{micro_batch}", *WEIGHTED, f"batch.micro_batch={micro_batch}") as parts:
        loop.train(parts)
    assert losses(parts.run_dir) == pytest.approx(plain, rel=1e-12)


@pytest.mark.processes
@pytest.mark.parametrize("ranks", [2, 3])
def test_two_and_three_ranks_are_the_plain_loop(workplace: Workplace, plain: list[float], ranks: int) -> None:
    """Five micro-batches a step: ranks have unequal shares, and in the short batch some have none."""
    assert losses(workplace.train(f"weighted-ranks-{ranks}", ranks, *WEIGHTED)) == pytest.approx(plain, rel=1e-12)
