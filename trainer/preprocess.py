"""uint8 pixels to what the network sees, on the device: images_NHWC 0..255 to normalized images_NCHW."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Normalize:
    """(pixel / 255 - mean) / std for each channel, in the dtype of the parameters; channels last in memory."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device, dtype: torch.dtype):
        self._device = device
        self._scale_C = (1.0 / (255.0 * torch.tensor(std, dtype=torch.float64))).to(device, dtype)
        self._shift_C = (-torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)).to(
            device, dtype
        )

    def __call__(self, images_NHWC: torch.Tensor) -> torch.Tensor:
        """Return images_NCHW."""
        pixels_NHWC = images_NHWC.to(self._device, non_blocking=True).to(self._scale_C.dtype)
        return pixels_NHWC.mul_(self._scale_C).add_(self._shift_C).permute(0, 3, 1, 2)
