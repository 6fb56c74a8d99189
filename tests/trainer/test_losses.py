"""Losses: one for each sample, of labels and of distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.data.mixup import mixup_target
from timm.loss import BinaryCrossEntropy as TimmsBinaryCrossEntropy
from timm.loss import SoftTargetCrossEntropy
from torch.nn import functional

from megabatch.configs.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Custom,
    Focal,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
)
from megabatch.trainer import losses as built
from megabatch.trainer.batch_augment.mix import mixed_targets
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.losses import Loss

COUNTS = (4, 1, 2, 8, 5)


def cross_entropy(smoothing: float, **settings: object) -> Loss:
    return built.cross_entropy(CrossEntropy.model_validate(settings), smoothing, COUNTS)


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


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_are_torchs_before_its_mean(smoothing: float) -> None:
    weights = (0.5, 1.0, 2.0, 0.0, 3.0)
    expected = functional.cross_entropy(
        LOGITS_NK, LABELS_N, torch.tensor(weights, dtype=torch.float64), reduction="none", label_smoothing=smoothing
    )
    loss = cross_entropy(smoothing, class_weights=weights)
    torch.testing.assert_close(loss(LOGITS_NK, LABELS_N), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        loss(LOGITS_NK, functional.one_hot(LABELS_N, 5).double()), expected, rtol=1e-12, atol=1e-12
    )


def test_balanced_weights_make_every_class_count_the_same() -> None:
    weights = [20 / (5 * count) for count in COUNTS]
    balanced = cross_entropy(0.0, class_weights="balanced")(LOGITS_NK, LABELS_N)
    torch.testing.assert_close(balanced, cross_entropy(0.0, class_weights=tuple(weights))(LOGITS_NK, LABELS_N))
    assert sum(weight * count for weight, count in zip(weights, COUNTS, strict=True)) == pytest.approx(sum(COUNTS))


@pytest.mark.parametrize("settings", [{}, {"target_threshold": 0.2}, {"sum_classes": True}])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_is_timms(settings: dict[str, object], smoothing: float) -> None:
    reference = TimmsBinaryCrossEntropy(
        smoothing, settings.get("target_threshold"), reduction="none", sum_classes=bool(settings.get("sum_classes"))
    )
    loss = built.binary_cross_entropy(BinaryCrossEntropy.model_validate(settings), smoothing, COUNTS)
    theirs = reference(LOGITS_NK.float(), LABELS_N)
    ours = loss(LOGITS_NK.float(), LABELS_N)
    expected = (theirs, ours.mean()) if theirs.ndim == 0 else (theirs.mean(dim=1), ours)  # timm's sum is a mean then
    torch.testing.assert_close(*expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.25, None])
def test_focal_is_the_papers_formula(alpha: float | None) -> None:
    loss = built.focal(Focal(gamma=1.5, alpha=alpha), 0.0, COUNTS)
    z = LOGITS_NK.numpy()
    right = np.eye(5)[LABELS_N.numpy()] == 1
    p = np.where(right, 1 / (1 + np.exp(-z)), 1 - 1 / (1 + np.exp(-z)))
    balance = np.ones_like(p) if alpha is None else np.where(right, alpha, 1 - alpha)
    expected = (balance * (1 - p) ** 1.5 * -np.log(p)).sum(axis=1)
    np.testing.assert_allclose(loss(LOGITS_NK, LABELS_N).numpy(), expected, rtol=1e-12)


def test_squared_and_huber_errors_are_their_formulas() -> None:
    error = LOGITS_NK.numpy() - np.eye(5)[LABELS_N.numpy()]
    squared = built.mean_squared_error(MeanSquaredError(), 0.0, COUNTS)(LOGITS_NK, LABELS_N)
    np.testing.assert_allclose(squared.numpy(), (error**2).mean(axis=1), rtol=1e-12)
    huber = built.huber(Huber(delta=0.7), 0.0, COUNTS)(LOGITS_NK, LABELS_N)
    size = np.abs(error)
    expected = np.where(size <= 0.7, size**2 / 2, 0.7 * (size - 0.35)).mean(axis=1)
    np.testing.assert_allclose(huber.numpy(), expected, rtol=1e-12)


def test_errors_of_numbers_are_their_formulas() -> None:
    numbers_NK = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)) * 30
    error = np.abs(LOGITS_NK.numpy() - numbers_NK.double().numpy())
    expected = {
        "mean_squared_error": error**2,
        "mean_absolute_error": error,
        "huber": np.where(error <= 0.7, error**2 / 2, 0.7 * (error - 0.35)),
    }
    losses = {
        "mean_squared_error": built.mean_squared_error(MeanSquaredError(), 0.0, COUNTS),
        "mean_absolute_error": built.mean_absolute_error(MeanAbsoluteError(), 0.0, COUNTS),
        "huber": built.huber(Huber(delta=0.7), 0.0, COUNTS),
    }
    for name, loss in losses.items():
        found_N = loss(LOGITS_NK, numbers_NK)
        assert found_N.dtype == torch.float64
        np.testing.assert_allclose(found_N.numpy(), expected[name].mean(axis=1), rtol=1e-12)
        assert loss(LOGITS_NK.bfloat16(), numbers_NK).dtype == torch.float32  # where autocast left the outputs


def test_several_classes_at_once_have_the_logistic_and_the_focal_loss_of_each() -> None:
    rows_NK = torch.tensor([[1.0, 0, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    right_NK = np.where(rows_NK > 0, 1, -1) * LOGITS_NK[:3].numpy()
    logistic = np.log1p(np.exp(-right_NK))
    bce_N = built.binary_cross_entropy(BinaryCrossEntropy(), 0.0, COUNTS)(LOGITS_NK[:3], rows_NK)
    np.testing.assert_allclose(bce_N.numpy(), logistic.mean(axis=1), rtol=1e-7)
    focal_N = built.focal(Focal(gamma=2.0, alpha=None), 0.0, COUNTS)(LOGITS_NK[:3], rows_NK)
    wrong = 1 / (1 + np.exp(right_NK))
    np.testing.assert_allclose(focal_N.numpy(), (wrong**2 * logistic).sum(axis=1), rtol=1e-6)


def test_a_loss_of_ones_own_gives_one_number_a_sample() -> None:
    own = Custom(function="torch.nn.functional:cross_entropy", options={"reduction": "none"})
    torch.testing.assert_close(
        built.custom(own, 0.0, COUNTS)(LOGITS_NK, LABELS_N), cross_entropy(0.0)(LOGITS_NK, LABELS_N)
    )
    mean = Custom(function="torch.nn.functional:cross_entropy")
    with pytest.raises(TrainingError, match=r"returned \(\) for 6 samples, not one number for each"):
        built.custom(mean, 0.0, COUNTS)(LOGITS_NK, LABELS_N)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: built.custom(Custom(function="nowhere:loss"), 0.0, COUNTS), "No module named 'nowhere'"),
        (lambda: built.custom(Custom(function="math:loss"), 0.0, COUNTS), "no attribute 'loss'"),
        (lambda: built.custom(Custom(function="math:sqrt"), 0.1, COUNTS), "would have no effect"),
        (lambda: cross_entropy(0.0, class_weights=(1.0, 2.0)), "2 weights for 5 classes"),
        (lambda: built.cross_entropy(CrossEntropy(class_weights="balanced"), 0.0, (3, 0)), "class 1 has no sample"),
    ],
)
def test_a_loss_that_cannot_be_made_says_why(make: object, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_loss_over_some_outputs_is_that_of_a_network_without_the_others(smoothing: float) -> None:
    kept, labels_N = (1, 4, 3), torch.tensor([1, 4, 4, 3])
    logits_NK, few_NJ = LOGITS_NK[:4], LOGITS_NK[:4, [1, 4, 3]]
    loss = built.over(cross_entropy(smoothing), kept, 5)
    expected_N = cross_entropy(smoothing)(few_NJ, torch.tensor([0, 1, 1, 2]))
    assert torch.equal(loss(logits_NK, labels_N), expected_N)
    mixed_NK = torch.zeros(4, 5, dtype=torch.float64)
    mixed_NK[:, 1], mixed_NK[:, 3] = 0.25, 0.75
    assert torch.equal(loss(logits_NK, mixed_NK), cross_entropy(smoothing)(few_NJ, mixed_NK[:, [1, 4, 3]]))
    filler = loss(logits_NK, torch.zeros(4, dtype=torch.int64))
    assert filler.isfinite().all()
