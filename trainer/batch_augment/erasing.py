"""Random erasing of normalized images on the device."""

from __future__ import annotations

import torch

from megabatch.configs.batch_transforms import BatchRandomErasing
from megabatch.data.augment.erasing import erased_part
from megabatch.data.hashing import RandomStream
from megabatch.trainer.batch_augment.chain import BatchTransform


def random_erasing(settings: BatchRandomErasing, num_classes: int) -> BatchTransform:
    """Return a transform of (images_NCHW, targets) that sets a rectangle of its own to 0 in some of the images."""

    def transform(
        images_NCHW: torch.Tensor, targets: torch.Tensor, stream: RandomStream
    ) -> tuple[torch.Tensor, torch.Tensor]:
        erased_NCHW = images_NCHW.clone()
        height, width = images_NCHW.shape[2:]
        for image_CHW in erased_NCHW:
            if stream.uniform() < settings.probability:
                rows, columns = erased_part(height, width, settings, stream)
                image_CHW[:, rows, columns] = 0
        return erased_NCHW, targets

    return transform
