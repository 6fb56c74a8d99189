"""scikit-learn's bundled handwritten digits as image files: real images without a download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from megabatch.data.errors import DataError

_LARGEST_VALUE = 16  # of a pixel in the data set (Alpaydin and Kaynak 1998)


def write_digits(folder: Path) -> int:
    """Write 1797 grey PNGs of 8 x 8 pixels as folder/DIGIT/NUMBER.png; return how many."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: is not an empty folder: choose another")
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        file = folder / str(label) / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(pixels * (255 / _LARGEST_VALUE)).astype(np.uint8)).save(file)
    return len(digits.images)
