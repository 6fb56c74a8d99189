"""What the probe for the largest micro-batch trains on: targets of the shape that the recipe's loss takes."""

from __future__ import annotations

import pytest
import torch

from megabatch.configs.targets import ClassTarget, LabelsTarget, NumbersTarget, Target
from megabatch.trainer.tune_batch import synthetic


@pytest.mark.parametrize(
    ("target", "shape", "dtype"),
    [
        (ClassTarget(), (5,), torch.int64),
        (LabelsTarget(), (5, 3), torch.float32),
        (NumbersTarget(member="txt", count=3), (5, 3), torch.float32),
    ],
)
def test_synthetic_targets_are_those_of_the_loader(target: Target, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    micro_batch = next(synthetic(5, 8, 3, target))
    assert (tuple(micro_batch.labels_N.shape), micro_batch.labels_N.dtype) == (shape, dtype)
    assert micro_batch.images_NHWC.shape == (5, 8, 8, 3)
    assert int(micro_batch.labels_N.max()) < 3
