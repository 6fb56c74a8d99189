"""A network of your own: a residual network of one width, written in plain torch."""

from torch import Tensor, nn


class Block(nn.Module):
    """`x + f(x)`, f two convolutions; with its last norm at 0 it begins as the identity (Goyal et al. 2017)."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        nn.init.zeros_(self.body[-1].weight)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return the input and what the block adds to it."""
        out_NCHW: Tensor = images_NCHW + self.body(images_NCHW)
        return out_NCHW.relu()


def build(num_classes: int, width: int = 32, blocks: int = 2) -> nn.Module:
    """Return the network. `num_classes` comes from the data, the others from `model.options`."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        *(Block(width) for _ in range(blocks)),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(width * 4, num_classes),
    )
