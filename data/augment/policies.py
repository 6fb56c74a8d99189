"""RandAugment, TrivialAugment and AutoAugment of one image, called as all transforms are (see geometry.py)."""

from __future__ import annotations

from torch import Tensor
from torchvision.transforms.v2 import functional

from megabatch.configs.transforms import AutoAugment, RandAugment, TrivialAugment
from megabatch.data.augment.affine import fill_values
from megabatch.data.augment.learned_policies import CIFAR10, IMAGENET
from megabatch.data.augment.operations import AUTO, RAND, TRIVIAL_WIDE, Border, Operation, Space
from megabatch.data.augment.tensors import channels_first, channels_last
from megabatch.data.decode import Pixels
from megabatch.data.hashing import RandomStream

_LAST_BIN = 30  # RandAugment and TrivialAugment count 31 magnitudes
_LAST_LEARNED_BIN = 9  # AutoAugment counts 10


def rand_augment(image_HWC: Pixels, settings: RandAugment, image_size: int, stream: RandomStream) -> Pixels:
    """Apply `num_ops` operations, each drawn from all 14, at one magnitude."""
    image_CHW = channels_first(image_HWC)
    for _ in range(settings.num_ops):
        operation = _any_of(RAND, stream)
        image_CHW = _applied(operation, image_CHW, settings.magnitude / _LAST_BIN, _border(settings), stream)
    return channels_last(image_CHW)


def trivial_augment(image_HWC: Pixels, settings: TrivialAugment, image_size: int, stream: RandomStream) -> Pixels:
    """Apply one operation, drawn from all 14, at a drawn magnitude."""
    operation = _any_of(TRIVIAL_WIDE, stream)
    share = stream.integer(_LAST_BIN + 1) / _LAST_BIN
    return channels_last(_applied(operation, channels_first(image_HWC), share, _border(settings), stream))


def auto_augment(image_HWC: Pixels, settings: AutoAugment, image_size: int, stream: RandomStream) -> Pixels:
    """Apply a drawn pair of operations, each with its own probability and magnitude."""
    policy = {"imagenet": IMAGENET, "cifar10": CIFAR10}[settings.policy]
    image_CHW = channels_first(image_HWC)
    for name, probability, magnitude_bin in policy[stream.integer(len(policy))]:
        if stream.uniform() < probability:
            share = (magnitude_bin or 0) / _LAST_LEARNED_BIN
            image_CHW = _applied(AUTO[name], image_CHW, share, _border(settings), stream)
    return channels_last(image_CHW)


def _any_of(space: Space, stream: RandomStream) -> Operation:
    operations = tuple(space.values())
    return operations[stream.integer(len(operations))]


def _applied(operation: Operation, image_CHW: Tensor, share: float, border: Border, stream: RandomStream) -> Tensor:
    if operation.magnitude is None:
        return operation.apply(image_CHW, 0.0, border)
    magnitude = operation.magnitude(share, image_CHW.shape[1], image_CHW.shape[2])
    if operation.signed and stream.uniform() < 0.5:
        magnitude = -magnitude
    return operation.apply(image_CHW, magnitude, border)


def _border(settings: RandAugment | TrivialAugment | AutoAugment) -> Border:
    return Border(functional.InterpolationMode(settings.interpolation), fill_values(settings.fill))
