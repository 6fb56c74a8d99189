"""uint8 pixels to what the network sees, on the device: images_NHWC 0..255 to normalized images_NCHW.

Every function here takes (settings, device, dtype) and returns the function that does it to a batch, in `dtype` and
channels last in memory. configs/normalization.py says what the settings mean.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from megabatch.configs.normalization import Fixed, MinMax, PerImage

Normalize = Callable[[torch.Tensor], torch.Tensor]
_ALL = {"together": (1, 2, 3), "each": (1, 2)}  # the axes of NHWC that make up one mean or maximum


def fixed(settings: Fixed, device: torch.device, dtype: torch.dtype) -> Normalize:
    """Return (pixel / 255 - mean) / std for each channel."""
    mean_C, std_C = (torch.tensor(values, dtype=torch.float64) for values in (settings.mean, settings.std))
    scale_C = (1 / (255 * std_C)).to(device, dtype)
    shift_C = (-mean_C / std_C).to(device, dtype)
    copied = _copy_to(device, dtype)

    def normalize(images_NHWC: torch.Tensor) -> torch.Tensor:
        return copied(images_NHWC).mul_(scale_C).add_(shift_C).permute(0, 3, 1, 2)

    return normalize


def per_image(settings: PerImage, device: torch.device, dtype: torch.dtype) -> Normalize:
    """Return (pixel - mean) / max(std, 1 / sqrt(n)) of each image's own n values."""
    axes, copied = _ALL[settings.channels], _copy_to(device, dtype)

    def normalize(images_NHWC: torch.Tensor) -> torch.Tensor:
        pixels_NHWC = copied(images_NHWC).div_(255)
        std, mean = torch.std_mean(pixels_NHWC, dim=axes, correction=0, keepdim=True)
        values = pixels_NHWC[0].numel() // std[0].numel()
        return pixels_NHWC.sub_(mean).div_(std.clamp_(min=values**-0.5)).permute(0, 3, 1, 2)

    return normalize


def min_max(settings: MinMax, device: torch.device, dtype: torch.dtype) -> Normalize:
    """Return (pixel - min) / (max - min) of each image, or twice that less 1; 0 where max = min."""
    axes, copied = _ALL[settings.channels], _copy_to(device, dtype)

    def normalize(images_NHWC: torch.Tensor) -> torch.Tensor:
        pixels_NHWC = copied(images_NHWC)
        low, high = pixels_NHWC.amin(axes, keepdim=True), pixels_NHWC.amax(axes, keepdim=True)
        middle = (low + high) / 2 if settings.symmetric else low
        span = (high - middle).clamp_(min=0.5)  # at least 0.5 with contrast, as pixels are whole numbers; 0 without
        return pixels_NHWC.sub_(middle).div_(span).permute(0, 3, 1, 2)

    return normalize


def _copy_to(device: torch.device, dtype: torch.dtype) -> Normalize:
    """Return what copies pixels to the device, where they become numbers: they travel as bytes."""
    if device.type != "cpu":
        return lambda images_NHWC: images_NHWC.to(device, non_blocking=True).to(dtype)
    return torch.Tensor.float if dtype == torch.float32 else lambda images_NHWC: images_NHWC.to(dtype)
