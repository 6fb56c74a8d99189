"""Between the loader's pixels and torchvision's: numpy (H, W, 3) here, torch (3, H, W) there; both uint8."""

from __future__ import annotations

import torch

from megabatch.data.decode import Pixels


def channels_first(image_HWC: Pixels) -> torch.Tensor:
    """Return image_CHW, contiguous: most of torchvision's operations are faster then, some ten times."""
    return torch.from_numpy(image_HWC).permute(2, 0, 1).contiguous()


def channels_last(image_CHW: torch.Tensor) -> Pixels:
    """Return image_HWC, contiguous."""
    image_HWC: Pixels = torch.stack(image_CHW.unbind(0), dim=-1).numpy()  # permute and contiguous take twice as long
    return image_HWC
