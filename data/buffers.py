"""Memory for batches, used again as soon as nobody holds the batch any more.

A batch is tens of megabytes, which the system hands out as fresh zeroed pages and takes back when it is freed: that
costs a tenth of the time that decoding into it takes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray


class _Lent(np.ndarray):  # the array that a tensor keeps alive; its end is the sign to reuse
    def __del__(self) -> None:
        raw = self.__dict__.pop("raw", None)  # views made of this array have none
        if raw is not None:
            self.__dict__["free"].append(raw)


class BufferPool:
    """Gives out uint8 tensors; any thread may take one and any may drop one.

    >>> pool = BufferPool()
    >>> first = pool.empty((2, 3))
    >>> address = first.data_ptr()
    >>> del first
    >>> pool.empty((2, 3)).data_ptr() == address
    True
    """

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []

    def empty(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return an uninitialized uint8 tensor. Its memory comes back when no tensor and no view of it is left."""
        raw = self._take(math.prod(shape))
        lent = raw.reshape(shape).view(_Lent)
        lent.__dict__.update(raw=raw, free=self._free)
        return torch.from_numpy(lent)

    def _take(self, size: int) -> NDArray[np.uint8]:
        try:
            raw = self._free.pop()
        except IndexError:
            return np.empty(size, dtype=np.uint8)
        return raw if raw.size == size else np.empty(size, dtype=np.uint8)
