"""Small data sets for tests: images with something to learn in them, imported by the real importer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from megabatch.data.dataset import Dataset
from megabatch.data.importer import ImportOptions, import_images


def image_folder(folder: Path, counts: dict[str, int], classes: int = 3, size: int = 8, kind: str = "png") -> Path:
    """Write SPLIT/CLASS/NUMBER images: noise around a level that belongs to the class."""
    generator = np.random.default_rng(0)
    for split, count in counts.items():
        for number in range(count):
            label = number % classes
            pixels = generator.normal(60 + 60 * label, 40, (size, size, 3)).clip(0, 255).astype(np.uint8)
            file = folder / split / f"class{label}" / f"{number:05d}.{kind}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    return folder


def dataset(folder: Path, counts: dict[str, int], samples_per_shard: int = 10, classes: int = 3) -> Dataset:
    """Write images and import them into folder/data."""
    images = image_folder(folder / "images", counts, classes)
    options = ImportOptions(samples_per_shard=samples_per_shard)
    return import_images(images, folder / "data", options, lambda done, total: None).dataset
