"""Makes long curves short: of each bucket of points the lowest and the highest, so that no spike is lost; and means."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from megabatch.launcher.report.metrics import Column


def extremes(values: Column, most: int) -> NDArray[np.intp]:
    """Return which points to draw, at most about `most`: the ends, and lowest and highest of each bucket.

    >>> extremes(np.array([5.0, 1.0, 2.0, 9.0, 3.0, 4.0, 4.0, 0.0]), 4)
    array([0, 1, 3, 5, 7])
    """
    if len(values) <= most:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), max(1, most // 2) + 1).astype(int)
    kept = {0, len(values) - 1}
    for start, stop in pairwise(edges):
        kept |= {start + int(np.argmin(values[start:stop])), start + int(np.argmax(values[start:stop]))}
    return np.array(sorted(kept))


def bucket_means(x: Column, y: Column, buckets: int) -> tuple[Column, Column]:
    """Return the means of equally many points in a row."""
    edges = np.linspace(0, len(x), buckets + 1).astype(int)
    counts = np.diff(edges)
    return np.add.reduceat(x, edges[:-1]) / counts, np.add.reduceat(y, edges[:-1]) / counts


def short(value: float) -> float:
    """Return a number with five digits that count: a page of curves is a third as large."""
    if value == 0 or not math.isfinite(value):
        return 0.0
    rounded = float(f"{value:.5g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
