"""However a batch is cut into micro-batches, its gradient is that of the whole batch: every loss, any targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from megabatch.configs.losses import BinaryCrossEntropy, CrossEntropy, Custom, Focal, Huber, MeanSquaredError
from megabatch.data.errors import SkippedSample
from megabatch.data.loader import MicroBatch
from megabatch.data.requests import Request
from megabatch.trainer import losses as built
from megabatch.trainer import step
from megabatch.trainer.batch_augment.mix import blended, mixed_targets
from megabatch.trainer.losses import Loss
from megabatch.trainer.step import StepParts
from support.runs import Workplace
from support.training import training

CLASSES, COUNTS = 3, (15, 15, 14)
WEIGHTS = (0.5, 1.0, 3.0)
FIXED = ("precision=fp64", "model.options={norm: false, dropout: 0.0}", "tracking={}", "data.train_transforms=[]")


class Cell(NamedTuple):
    """A loss, and the same as a function of outputs_NK and targets_NK by torch's own means."""

    ours: Loss
    theirs: Loss


def smooth(targets_NK: Tensor, amount: float) -> Tensor:
    return targets_NK * (1 - amount) + amount / CLASSES


CELLS = {
    "cross_entropy": Cell(
        built.cross_entropy(CrossEntropy(), 0.1, COUNTS),
        lambda z, q: functional.cross_entropy(z, q, reduction="none", label_smoothing=0.1),
    ),
    "class_weights": Cell(
        built.cross_entropy(CrossEntropy(class_weights=WEIGHTS), 0.1, COUNTS),
        lambda z, q: functional.cross_entropy(
            z, q, torch.tensor(WEIGHTS, dtype=z.dtype), reduction="none", label_smoothing=0.1
        ),
    ),
    "balanced": Cell(
        built.cross_entropy(CrossEntropy(class_weights="balanced"), 0.0, COUNTS),
        lambda z, q: -(z.log_softmax(1) * q * torch.tensor([44 / 45, 44 / 45, 44 / 42], dtype=z.dtype)).sum(1),
    ),
    "binary_cross_entropy": Cell(
        built.binary_cross_entropy(BinaryCrossEntropy(sum_classes=True), 0.1, COUNTS),
        lambda z, q: functional.binary_cross_entropy_with_logits(z, smooth(q, 0.1), reduction="none").sum(1),
    ),
    "focal": Cell(
        built.focal(Focal(gamma=1.5, alpha=0.3), 0.1, COUNTS),
        lambda z, q: sigmoid_focal_loss(z, smooth(q, 0.1), 0.3, 1.5).sum(1),
    ),
    "mean_squared_error": Cell(
        built.mean_squared_error(MeanSquaredError(), 0.1, COUNTS),
        lambda z, q: (z - smooth(q, 0.1)).square().mean(1),
    ),
    "huber": Cell(
        built.huber(Huber(delta=0.3), 0.1, COUNTS),
        lambda z, q: functional.huber_loss(z, smooth(q, 0.1), reduction="none", delta=0.3).mean(1),
    ),
    "custom": Cell(
        built.custom(
            Custom(function="torch.nn.functional:cross_entropy", options={"reduction": "none"}), 0.0, COUNTS
        ),
        lambda z, q: functional.cross_entropy(z, q, reduction="none"),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def parts(workplace: Workplace) -> Iterator[StepParts]:
    with training(workplace, "accumulation", *FIXED) as built_parts:
        yield built_parts.step_parts


def micro_batches(pixels_NHWC: Tensor, targets: Tensor, weights_N: Tensor, cuts: Sequence[int]) -> Iterator[MicroBatch]:
    """Cut a batch at some places; the samples with a weight of their own are told as the loader tells them."""
    samples = len(targets)
    edges = [0, *cuts, samples]
    marked = () if bool((weights_N == 1).all()) else (SkippedSample("test", "", "", 0, ""),)
    for number, (start, stop) in enumerate(pairwise(edges)):
        ids = np.arange(start, stop)
        request = Request(0, 0, number, ids, np.zeros_like(ids), samples, stop == samples)
        yield MicroBatch(request, pixels_NHWC[start:stop], targets[start:stop], weights_N[start:stop], marked)


def gradient(parts: StepParts) -> Tensor:
    gradients = [parameter.grad for parameter in parts.parameters if parameter.grad is not None]
    flat = torch.cat([grad.flatten() for grad in gradients])
    for parameter in parts.parameters:
        parameter.grad = None
    return flat


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
@settings(max_examples=15)
@given(data=st.data(), samples=st.integers(1, 24), mixed=st.booleans(), weighted=st.booleans(), seed=st.integers(0, 99))
def test_any_split_of_a_batch_has_the_gradient_and_the_loss_of_the_whole(
    parts: StepParts, cell: Cell, data: st.DataObject, samples: int, mixed: bool, weighted: bool, seed: int
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, samples - 1)))) if samples > 1 else []
    dice = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (samples, 8, 8, 3), generator=dice, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (samples,), generator=dice)
    weights_N = torch.rand(samples, generator=dice, dtype=torch.float64) if weighted else torch.ones(samples)
    targets_NK = functional.one_hot(labels, CLASSES).double()
    targets = labels
    if mixed:  # mixup of the whole batch: pixels are no longer integers, and targets are distributions
        pixels = blended(pixels.float(), 0.3)
        targets = targets_NK = mixed_targets(labels, 0.3, CLASSES, torch.float64)
    ours = replace(parts, loss=cell.ours)
    sums, _ = step._accumulate(ours, micro_batches(pixels, targets, weights_N, cuts))
    found = gradient(parts)
    outputs_NK = parts.engine.network(parts.normalize(pixels))
    loss = (weights_N * cell.theirs(outputs_NK, targets_NK)).sum() / samples
    loss.backward()
    torch.testing.assert_close(found, gradient(parts), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(torch.stack(sums.losses).sum(), loss.detach(), rtol=1e-12, atol=1e-14)
