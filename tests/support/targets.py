"""Small shards whose samples carry another target than a class: numbers in a .json or .txt, or several classes."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from megabatch.data.dataset import Dataset
from megabatch.data.indexing import index_shards


class Drawn(NamedTuple):
    """An image and what is true of it: mean brightness and redness (0 to 1), and which of its corners are bright."""

    png: bytes
    brightness: float
    redness: float
    corners: list[int]


def draw(generator: np.random.Generator, size: int = 8) -> Drawn:
    """Return noise around a random level, with some corners brighter than the rest."""
    pixels = np.full((size, size, 3), generator.uniform(40, 140)) + generator.normal(0, 5, (size, size, 3))
    pixels[..., 0] += generator.uniform(-40, 40)
    half = size // 2
    corners = [number for number in range(4) if generator.random() < 0.4]
    for number in corners:
        row, column = divmod(number, 2)
        pixels[row * half : (row + 1) * half, column * half : (column + 1) * half] += 60
    image = pixels.clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    means = image.mean(axis=(0, 1)) / 255
    return Drawn(buffer.getvalue(), float(means.mean()), float(means[0]), corners)


Members = Callable[[Drawn, int], dict[str, bytes]]


def numbers_and_labels(drawn: Drawn, number: int) -> dict[str, bytes]:
    """Return a .json with two numbers and the bright corners, by name and by number, and a .txt with the numbers."""
    names = ["upper_left", "upper_right", "lower_left", "lower_right"]
    labels = [names[corner] if number % 2 else corner for corner in drawn.corners]
    values = {"brightness": drawn.brightness, "redness": drawn.redness, "corners": labels, "id": number}
    return {"json": json.dumps(values).encode(), "txt": f"{drawn.brightness!r} {drawn.redness!r}\n".encode()}


def write_shards(
    folder: Path, counts: dict[str, int], members: Members = numbers_and_labels, samples_per_shard: int = 10
) -> Path:
    """Write SPLIT-NUMBER.tar and classes.txt into a folder; nothing is indexed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("upper_left\nupper_right\nlower_left\nlower_right\n")
    generator = np.random.default_rng(0)
    for split, count in counts.items():
        for first in range(0, count, samples_per_shard):
            path = folder / f"{split}-{first // samples_per_shard:06d}.tar"
            with tarfile.open(path, "w") as tar:
                for number in range(first, min(first + samples_per_shard, count)):
                    drawn = draw(generator)
                    for extension, payload in {"png": drawn.png, **members(drawn, number)}.items():
                        info = tarfile.TarInfo(f"{number:05d}.{extension}")
                        info.size = len(payload)
                        tar.addfile(info, io.BytesIO(payload))
    return folder


def target_dataset(
    folder: Path, counts: dict[str, int], members: Members = numbers_and_labels, samples_per_shard: int = 10
) -> Dataset:
    """Write shards into folder/data and index them as a user does."""
    written = write_shards(folder / "data", counts, members, samples_per_shard)
    return index_shards(written, None, lambda done, total: None)
