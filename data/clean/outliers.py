"""Images unlike the others by size, shape, brightness or contrast. Fixed bounds, or robust z-scores over the data set.

A robust z-score is 0.6745 (x - median) / MAD, and over 3.5 an outlier (Iglewicz and Hoaglin 1993): a few wild images do
not hide each other, as they do with mean and standard deviation.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from megabatch.data.clean.kinds import Finding

BLANK_DEVIATION = 3.0  # grey levels
MAX_ASPECT = 4.0
MAX_SCORE = 3.5
_MIN_OCTAVES = 4.0  # of pixels, from the median: 16 times more or fewer
_MIN_IMAGES = 30  # fewer have no median worth the name
_MIN_LEVELS = 32.0  # of brightness, from the median
_MIN_CONTRAST_OCTAVES = 1.5


def is_blank(rows: NDArray[np.void]) -> NDArray[np.bool_]:
    """Return which samples are decoded and nearly one grey level: shape (samples,)."""
    blank: NDArray[np.bool_] = rows["decoded"] & (rows["deviation"] < BLANK_DEVIATION)
    return blank


def robust_scores(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the robust z-score of each value: shape (samples,); infinite where most values are equal."""
    distances = values - np.median(values)
    spread = np.median(np.abs(distances))
    with np.errstate(divide="ignore", invalid="ignore"):
        scores: NDArray[np.float64] = 0.6745 * distances / spread
    return np.nan_to_num(scores, nan=0.0, posinf=np.inf, neginf=-np.inf)


def outliers(rows: NDArray[np.void]) -> Iterator[Finding]:
    """Yield blank images, and those of extreme shape, size, brightness or contrast."""
    decoded = np.flatnonzero(rows["decoded"])
    width, height = rows["width"][decoded].astype(np.float64), rows["height"][decoded].astype(np.float64)
    blank = is_blank(rows)[decoded]
    for sample in decoded[blank].tolist():
        yield Finding("blank", sample, f"standard deviation {rows['deviation'][sample]:.1f} of 255")
    for sample in decoded[np.maximum(width, height) > MAX_ASPECT * np.minimum(width, height)].tolist():
        yield Finding("aspect", sample, _size(rows[sample]))
    for place in _unusual(np.log2(width * height), _MIN_OCTAVES):
        yield Finding("size", int(decoded[place]), f"{_size(rows[decoded[place]])} pixels")
    mean, deviation = rows["mean"][decoded].astype(np.float64), rows["deviation"][decoded].astype(np.float64)
    for place in _unusual(mean, _MIN_LEVELS):
        if not blank[place]:
            yield Finding("brightness", int(decoded[place]), _level("mean", mean, place))
    for place in _unusual(np.log2(deviation + 1), _MIN_CONTRAST_OCTAVES):
        if not blank[place]:
            yield Finding("contrast", int(decoded[place]), _level("standard deviation", deviation, place))


def _unusual(values: NDArray[np.float64], least: float) -> list[int]:
    """Return the places of the values that are outliers, and at least `least` from the median."""
    if len(values) < _MIN_IMAGES:
        return []
    far = np.abs(values - np.median(values)) >= least
    places: list[int] = np.flatnonzero(far & (np.abs(robust_scores(values)) > MAX_SCORE)).tolist()
    return places


def _size(row: np.void) -> str:
    return f"{row['width']:,} x {row['height']:,}"


def _level(name: str, values: NDArray[np.float64], place: int) -> str:
    return f"{name} {values[place]:.0f} of 255, median {np.median(values):.0f}"
