"""The network of recipe.yaml: `model: {name: "my_model:build", options: ...}`."""

from torch import nn


def build(num_classes: int, width: int = 32) -> nn.Module:
    """Return the network; `num_classes` comes from the data, everything else from model.options."""
    return nn.Sequential(
        _block(3, width),
        _block(width, 2 * width),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * 4, num_classes),
    )


def _block(channels_in: int, channels_out: int) -> nn.Module:
    convolution = nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())
