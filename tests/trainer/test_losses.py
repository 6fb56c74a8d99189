"""Losses: one for each sample, of labels and of distributions."""

from __future__ import annotations

import pytest
import torch
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy
from torch.nn import functional

from megabatch.trainer.batch_augment.mix import mixed_targets
from megabatch.trainer.losses import cross_entropy

LOGITS_NK = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS_N = torch.tensor([0, 4, 2, 2, 1, 3])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_every_sample_has_its_own_loss(smoothing: float) -> None:
    losses_N = cross_entropy(smoothing)(LOGITS_NK, LABELS_N)
    assert losses_N.shape == (6,)
    assert losses_N.sum() == pytest.approx(
        functional.cross_entropy(LOGITS_NK, LABELS_N, reduction="sum", label_smoothing=smoothing).item()
    )
    for row in range(6):
        alone = cross_entropy(smoothing)(LOGITS_NK[row : row + 1], LABELS_N[row : row + 1])
        assert alone.item() == pytest.approx(losses_N[row].item())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_label_and_the_distribution_that_means_it_have_the_same_loss(smoothing: float) -> None:
    loss = cross_entropy(smoothing)
    certain_NK = functional.one_hot(LABELS_N, 5).double()
    torch.testing.assert_close(loss(LOGITS_NK, certain_NK), loss(LOGITS_NK, LABELS_N))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_and_smoothed_targets_have_timms_loss(smoothing: float) -> None:
    """timm smooths first and mixes with the reversed order; with two samples that is our order."""
    share = 0.3
    theirs_NK = mixup_target(LABELS_N[:2], 5, share, smoothing).double()
    ours_NK = mixed_targets(LABELS_N[:2], share, 5, torch.float64)
    ours = cross_entropy(smoothing)(LOGITS_NK[:2], ours_NK).mean()
    torch.testing.assert_close(ours, SoftTargetCrossEntropy()(LOGITS_NK[:2], theirs_NK), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_the_loss_of_distributions_in_float32(dtype: torch.dtype) -> None:
    low = LOGITS_NK.to(dtype)
    targets_NK = mixed_targets(LABELS_N, 0.7, 5, torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        losses_N = cross_entropy(0.1)(low, targets_NK)
    assert losses_N.dtype == torch.float32
    torch.testing.assert_close(losses_N, cross_entropy(0.1)(low.float(), targets_NK))
