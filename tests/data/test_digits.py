"""The digits as files: every value of scikit-learn's data set comes back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from megabatch.data.digits import write_digits
from megabatch.data.errors import DataError


def test_the_digits_are_grey_pngs_by_class_with_every_value_kept(tmp_path: Path) -> None:
    assert write_digits(tmp_path / "digits") == 1797
    digits = load_digits()
    for number in range(0, 1797, 97):
        with Image.open(tmp_path / "digits" / str(digits.target[number]) / f"{number:04d}.png") as image:
            assert (image.mode, image.size) == ("L", (8, 8))
            assert np.array_equal(np.round(np.asarray(image) * (16 / 255)), digits.images[number])
    assert len(list((tmp_path / "digits").rglob("*.png"))) == 1797


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    for path in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(DataError, match="is not an empty folder"):
            write_digits(path)
