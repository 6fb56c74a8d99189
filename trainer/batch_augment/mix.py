"""Mixup and cutmix. Shapes: N images of C x H x W, K classes.

A sample's partner is the one before it in the micro-batch (the first one's is the last), as in torchvision: unlike the
reversed order of timm that leaves no sample of an odd micro-batch without a partner. A lone sample stays as it is.
"""

from __future__ import annotations

import math

import torch

from megabatch.configs.batch_transforms import Cutmix, Mixup, MixupOrCutmix
from megabatch.data.hashing import RandomStream
from megabatch.trainer.batch_augment.chain import BatchTransform

Batch = tuple[torch.Tensor, torch.Tensor]


def mixup(settings: Mixup, num_classes: int) -> BatchTransform:
    """Return a transform of (images_NCHW, targets) to lam times each sample plus 1 - lam times its partner."""

    def transform(images_NCHW: torch.Tensor, targets: torch.Tensor, stream: RandomStream) -> Batch:
        if stream.uniform() >= settings.probability or len(targets) < 2:
            return images_NCHW, targets
        share = symmetric_beta(settings.alpha, stream)
        return blended(images_NCHW, share), mixed_targets(targets, share, num_classes, images_NCHW.dtype)

    return transform


def cutmix(settings: Cutmix, num_classes: int) -> BatchTransform:
    """Return a transform of (images_NCHW, targets) that puts a rectangle of its partner into each image."""

    def transform(images_NCHW: torch.Tensor, targets: torch.Tensor, stream: RandomStream) -> Batch:
        if stream.uniform() >= settings.probability or len(targets) < 2:
            return images_NCHW, targets
        height, width = images_NCHW.shape[2:]
        rows, columns = cut_part(height, width, symmetric_beta(settings.alpha, stream), stream)
        share = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
        pasted_NCHW = images_NCHW.clone()
        pasted_NCHW[:, :, rows, columns] = images_NCHW[:, :, rows, columns].roll(1, 0)
        return pasted_NCHW, mixed_targets(targets, share, num_classes, images_NCHW.dtype)

    return transform


def mixup_or_cutmix(settings: MixupOrCutmix, num_classes: int) -> BatchTransform:
    """Return a transform that does one of both."""
    mixing = mixup(Mixup(alpha=settings.mixup_alpha), num_classes)
    cutting = cutmix(Cutmix(alpha=settings.cutmix_alpha), num_classes)

    def transform(images_NCHW: torch.Tensor, targets: torch.Tensor, stream: RandomStream) -> Batch:
        if stream.uniform() >= settings.probability:
            return images_NCHW, targets
        chosen = cutting if stream.uniform() < settings.switch_probability else mixing
        return chosen(images_NCHW, targets, stream)

    return transform


def blended(batch: torch.Tensor, share: float) -> torch.Tensor:
    """Return `share` times each sample plus 1 - share times its partner."""
    return batch * share + batch.roll(1, 0) * (1 - share)


def mixed_targets(targets: torch.Tensor, share: float, num_classes: int, dtype: torch.dtype) -> torch.Tensor:
    """Return targets_NK, the distribution over the classes: `share` for a sample's own, the rest for its partner's.

    Label smoothing is left to the loss: smoothing is linear, so before or after mixing it is the same.
    """
    if targets.ndim == 1:
        classes_K = torch.arange(num_classes, device=targets.device)
        targets = (targets[:, None] == classes_K).to(dtype)  # one_hot would make the host wait for CUDA
    return blended(targets, share)


def cut_part(height: int, width: int, share: float, stream: RandomStream) -> tuple[slice, slice]:
    """Return rows and columns of area 1 - share about a random centre, cut off at the border (Yun et al. 2019, eq. 2).

    The rounding is timm's, whose rectangles may have odd sides.
    """
    side = math.sqrt(1 - share)
    return _interval(int(height * side), height, stream), _interval(int(width * side), width, stream)


def _interval(length: int, whole: int, stream: RandomStream) -> slice:
    centre = stream.integer(whole)
    return slice(max(centre - length // 2, 0), min(centre + (length + 1) // 2, whole))


def symmetric_beta(alpha: float, stream: RandomStream) -> float:
    """Return a draw of Beta(alpha, alpha) from two uniform numbers, for any alpha above 0.

    Student's t with 2 alpha degrees of freedom is r cos(2 pi v) times a constant, r^2 = u^(-1/alpha) - 1 (Bailey 1994),
    and t / sqrt(2 alpha + t^2) is Beta(alpha, alpha) on -1 to 1 (Devroye 1986, section IX.4).
    """
    exponent = -math.log(1 - stream.uniform()) / alpha
    cosine = math.cos(2 * math.pi * stream.uniform())
    r_squared = math.expm1(min(exponent, 700.0))  # e^709 is the largest float
    t = math.sqrt(r_squared) * cosine
    return 0.5 * (1 + t / math.sqrt(1 + t * t))
