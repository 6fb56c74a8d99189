"""What a transform costs a loader thread: microseconds per image, ours beside torchvision's own.

    OMP_NUM_THREADS=1 python benchmarks/augment.py [IMAGE] [--size 224] [--calls 100] [--rounds 5]

One core. Both get the same uint8 image, ours as (H, W, 3) in numpy, torchvision's as a contiguous (3, H, W) tensor, so
ours also pays for the way to that layout and back. The figure is the median over the rounds of the mean over the calls;
ours and theirs take turns. Without IMAGE a smooth random picture is used.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from megabatch.configs import transforms as c
from megabatch.configs.base import Choice
from megabatch.data.augment.chain import _implementation
from megabatch.data.decode import Pixels, decode_image
from megabatch.data.hashing import RandomStream, key

BILINEAR = v2.InterpolationMode.BILINEAR


def cases(size: int) -> list[tuple[Choice, v2.Transform]]:
    """Return each transform and torchvision's, with the same settings and probability 1."""
    return [
        (c.RandomResizedCrop(), v2.RandomResizedCrop(size, antialias=True)),
        (c.RandomCrop(), v2.RandomCrop(size, padding=4)),
        (c.HorizontalFlip(probability=1.0), v2.RandomHorizontalFlip(1.0)),
        (c.VerticalFlip(probability=1.0), v2.RandomVerticalFlip(1.0)),
        (c.RandomRotation(degrees=30), v2.RandomRotation(30, BILINEAR, fill=None)),
        (
            c.RandomAffine(degrees=10, translate=(0.1, 0.1), scale=(0.9, 1.1), shear=(5, 5)),
            v2.RandomAffine(10, (0.1, 0.1), (0.9, 1.1), (-5, 5, -5, 5), BILINEAR, fill=None),
        ),
        (c.ColorJitter(), v2.ColorJitter(0.4, 0.4, 0.4)),
        (c.ColorJitter(hue=0.1), v2.ColorJitter(0.4, 0.4, 0.4, 0.1)),
        (c.Grayscale(probability=1.0), v2.RandomGrayscale(1.0)),
        (c.GaussianBlur(probability=1.0), v2.GaussianBlur(13, (0.1, 2.0))),
        (c.RandAugment(), v2.RandAugment(interpolation=BILINEAR)),
        (c.TrivialAugment(), v2.TrivialAugmentWide(interpolation=BILINEAR)),
        (c.AutoAugment(), v2.AutoAugment(interpolation=BILINEAR)),
        (c.RandomErasing(probability=1.0), v2.RandomErasing(1.0)),
    ]


def microseconds(call: Callable[[int], object], calls: int) -> float:
    """Return the mean time of a call."""
    started = time.perf_counter()
    for number in range(calls):
        call(number)
    return (time.perf_counter() - started) / calls * 1e6


def picture(file: Path | None, size: int) -> Pixels:
    """Return the image, or enlarged noise, with size x size pixels."""
    if file is None:
        coarse = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
        return np.array(coarse.resize((size, size), Image.Resampling.BICUBIC))
    image = Image.fromarray(decode_image(file.read_bytes(), 100_000_000))
    return np.array(image.resize((size, size)))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path, nargs="?")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    image_HWC = picture(arguments.image, arguments.size)
    image_CHW = torch.from_numpy(image_HWC).permute(2, 0, 1).contiguous()
    print(f"{arguments.size} x {arguments.size}, torch {torch.__version__}, microseconds per image")
    print(f"{'transform':22} {'ours':>8} {'torchvision':>12}")
    for settings, theirs in cases(arguments.size):
        function = _implementation(settings)

        def ours(number: int, function: Callable[..., Pixels] = function, settings: Choice = settings) -> Pixels:
            return function(image_HWC, settings, arguments.size, RandomStream(key(number)))

        def other(number: int, transform: v2.Transform = theirs) -> object:
            return transform(image_CHW)

        pairs = [
            (microseconds(ours, arguments.calls), microseconds(other, arguments.calls))
            for _ in range(arguments.rounds + 1)
        ][1:]
        mine, their = (statistics.median(column) for column in zip(*pairs, strict=True))
        hue = " with hue" if isinstance(settings, c.ColorJitter) and settings.hue else ""
        print(f"{settings.name + hue:22} {mine:8.0f} {their:12.0f}")  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
