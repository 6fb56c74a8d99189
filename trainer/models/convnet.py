"""A small residual network for small images, with batch norm: the model of the digits and CIFAR-10 recipes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from typing_extensions import override


class Residual(nn.Module):
    """x + f(x), f two 3 x 3 convolutions (He et al. 2016, figure 2; the order of Page 2018's ResNet-9)."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(conv_norm_relu(width, width), conv_norm_relu(width, width))

    @override
    def forward(self, features_NCHW: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = features_NCHW + self.body(features_NCHW)
        return out


def conv_norm_relu(width_in: int, width_out: int, stride: int = 1) -> nn.Sequential:
    """Return a 3 x 3 convolution, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(width_in, width_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(width_out),
        nn.ReLU(inplace=True),
    )


def convnet(num_classes: int, widths: Sequence[int] = (64, 128, 256, 512), dropout: float = 0.0) -> nn.Sequential:
    """Return a network with one stage per width; every stage after the first halves the image and adds a residual.

    >>> convnet(num_classes=10, widths=[8, 16])(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 10])
    """
    stages: list[nn.Module] = [conv_norm_relu(3, widths[0])]
    for width_in, width_out in pairwise(widths):
        stages += [conv_norm_relu(width_in, width_out, stride=2), Residual(width_out)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(widths[-1], num_classes)]
    return nn.Sequential(*stages, *head)
