"""A recipe's list of batch transforms as one function of normalized images, targets and a random stream.

The numbers come from the stream, on the host: the same mix on CPU and CUDA, and nothing waits for the device. A
micro-batch is mixed with itself only, so the number of ranks plays no part.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

import torch

from megabatch.configs.base import Choice
from megabatch.data.hashing import RandomStream

# images_NCHW, targets (int64 labels_N, or targets_NK of the images' dtype), stream -> the same, new tensors
BatchTransform = Callable[[torch.Tensor, torch.Tensor, RandomStream], tuple[torch.Tensor, torch.Tensor]]


def chain(transforms: Sequence[Choice], num_classes: int) -> BatchTransform:
    """Return the batch transforms applied one after the other."""
    steps = [_implementation(settings)(settings, num_classes) for settings in transforms]

    def apply(
        images_NCHW: torch.Tensor, targets: torch.Tensor, stream: RandomStream
    ) -> tuple[torch.Tensor, torch.Tensor]:
        for step in steps:
            images_NCHW, targets = step(images_NCHW, targets, stream)
        return images_NCHW, targets

    return apply


def _implementation(settings: Choice) -> Callable[[Choice, int], BatchTransform]:
    module, _, function = settings.implementation.partition(":")
    found: Callable[[Choice, int], BatchTransform] = getattr(importlib.import_module(module), function)
    return found
