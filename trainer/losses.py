"""Losses of outputs_NK, one for each sample: the step weights and adds them.

Targets are labels_N (int64), or targets_NK: a distribution over the classes for each sample, as mixup makes them, or
the rows of a target that is no class: 0 and 1 for each class, or numbers. Every
builder takes (settings, label_smoothing, class_counts), where class_counts is how many samples each class has.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
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
from megabatch.trainer.errors import TrainingError

Loss = Callable[[Tensor, Tensor], Tensor]  # outputs_NK, targets -> losses_N


def cross_entropy(settings: CrossEntropy, label_smoothing: float, class_counts: Sequence[int]) -> Loss:
    """Return `-sum_k w_k q_k log p_k` with q = (1 - s) target + s / K (Szegedy et al. 2016, section 7)."""
    if settings.class_weights is None:
        return partial(functional.cross_entropy, reduction="none", label_smoothing=label_smoothing)
    weights_K = torch.tensor(_class_weights(settings.class_weights, class_counts), dtype=torch.float64)

    def loss(outputs_NK: Tensor, targets: Tensor) -> Tensor:
        log_NK = functional.log_softmax(outputs_NK, dim=1)
        targets_NK = _smoothed(outputs_NK, targets, label_smoothing)
        return -(log_NK * targets_NK * weights_K.to(log_NK)).sum(dim=1)

    return loss


def binary_cross_entropy(settings: BinaryCrossEntropy, label_smoothing: float, class_counts: Sequence[int]) -> Loss:
    """Return one logistic loss for each class, their mean or sum; smoothed first and then cut by the threshold."""

    def loss(outputs_NK: Tensor, targets: Tensor) -> Tensor:
        targets_NK = _smoothed(outputs_NK, targets, label_smoothing)
        if settings.target_threshold is not None:
            targets_NK = targets_NK.gt(settings.target_threshold).to(targets_NK.dtype)
        losses_NK = functional.binary_cross_entropy_with_logits(outputs_NK, targets_NK, reduction="none")
        return losses_NK.sum(dim=1) if settings.sum_classes else losses_NK.mean(dim=1)

    return loss


def focal(settings: Focal, label_smoothing: float, class_counts: Sequence[int]) -> Loss:
    """Return torchvision's focal loss of each class, added up."""
    from torchvision.ops import sigmoid_focal_loss

    alpha = -1.0 if settings.alpha is None else settings.alpha

    def loss(outputs_NK: Tensor, targets: Tensor) -> Tensor:
        targets_NK = _smoothed(outputs_NK, targets, label_smoothing)
        losses_NK: Tensor = sigmoid_focal_loss(outputs_NK.to(targets_NK.dtype), targets_NK, alpha, settings.gamma)
        return losses_NK.sum(dim=1)

    return loss


def mean_squared_error(settings: MeanSquaredError, label_smoothing: float, class_counts: Sequence[int]) -> Loss:
    """Return the mean over the classes of the squared error."""

    def loss(outputs_NK: Tensor, targets: Tensor) -> Tensor:
        targets_NK = _smoothed(outputs_NK, targets, label_smoothing)
        return functional.mse_loss(outputs_NK.to(targets_NK.dtype), targets_NK, reduction="none").mean(dim=1)

    return loss


def huber(settings: Huber, label_smoothing: float, class_counts: Sequence[int]) -> Loss:
    """Return the mean over the classes of Huber's loss."""

    def loss(outputs_NK: Tensor, targets: Tensor) -> Tensor:
        targets_NK = _smoothed(outputs_NK, targets, label_smoothing)
        outputs_NK = outputs_NK.to(targets_NK.dtype)
        return functional.huber_loss(outputs_NK, targets_NK, reduction="none", delta=settings.delta).mean(dim=1)

    return loss


def mean_absolute_error(settings: MeanAbsoluteError, label_smoothing: float, class_counts: Sequence[int]) -> Loss:
    """Return the mean over the outputs of the absolute error."""

    def loss(outputs_NK: Tensor, targets: Tensor) -> Tensor:
        targets_NK = _smoothed(outputs_NK, targets, label_smoothing)
        return functional.l1_loss(outputs_NK.to(targets_NK.dtype), targets_NK, reduction="none").mean(dim=1)

    return loss


def custom(settings: Custom, label_smoothing: float, class_counts: Sequence[int]) -> Loss:
    """Return a loss of the user's own, checked to give one number a sample. Raises TrainingError if there is none."""
    if label_smoothing:
        raise TrainingError(
            f"loss {settings.function}: regularization.label_smoothing={label_smoothing:g} would have no effect on a "
            "loss of your own: set it to 0"
        )
    module, _, name = settings.function.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise TrainingError(f"loss {settings.function}: {error}") from error

    def loss(outputs_NK: Tensor, targets: Tensor) -> Tensor:
        losses_N: Tensor = function(outputs_NK, targets, **settings.options)
        shape = tuple(losses_N.shape) if isinstance(losses_N, Tensor) else type(losses_N).__name__
        if shape != (len(outputs_NK),):
            raise TrainingError(
                f"loss {settings.function}: returned {shape} for {len(outputs_NK)} samples, not one number "
                "for each of them (reduction='none')"
            )
        return losses_N

    return loss


def _class_weights(wish: Sequence[float] | str, class_counts: Sequence[int]) -> list[float]:
    if isinstance(wish, str):
        missing = [number for number, count in enumerate(class_counts) if count == 0]
        if missing:
            raise TrainingError(
                f"loss.class_weights: balanced, but class {missing[0]} has no sample in the training split. "
                "Write the weights as a list"
            )
        return [sum(class_counts) / (len(class_counts) * count) for count in class_counts]
    if len(wish) != len(class_counts):
        raise TrainingError(f"loss.class_weights: {len(wish)} weights for {len(class_counts)} classes")
    return list(wish)


def _smoothed(outputs_NK: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Return targets as distributions, in at least float32, each class with its share of the smoothing."""
    dtype = torch.promote_types(outputs_NK.dtype, torch.float32)
    classes = outputs_NK.shape[1]
    targets_NK = (functional.one_hot(targets, classes) if targets.ndim == 1 else targets).to(dtype)
    return targets_NK if label_smoothing == 0 else targets_NK * (1 - label_smoothing) + label_smoothing / classes


def over(loss: Loss, kept: tuple[int, ...], outputs: int) -> Loss:
    """Return the loss over some of the outputs, as if there were no others; targets must be among them.

    The classes of targets, or the columns of mixed ones, are counted anew.
    """
    kept_J = torch.tensor(kept)
    place_K = torch.zeros(outputs, dtype=torch.int64)  # a filler, which weighs nothing, has class 0
    place_K[kept_J] = torch.arange(len(kept))

    def over_kept(outputs_NK: Tensor, targets: Tensor) -> Tensor:
        columns = kept_J.to(outputs_NK.device)
        of_kept = place_K.to(targets.device)[targets] if targets.dim() == 1 else targets.index_select(1, columns)
        return loss(outputs_NK.index_select(1, columns), of_kept)

    return over_kept
