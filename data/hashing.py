"""Counter-based randomness: every random number is a pure function of what it is for. No state, no generator objects.

A key is built from numbers that name the purpose, `key(seed, epoch, sample_id)`; the n-th draw of a key is
`mix(key + n * GOLDEN)`. Mixing is SplitMix64 (Steele, Lea and Flood 2014, figure 17). numpy's own generators are not
used because their streams may change between versions (NEP 19), and an order of samples must not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GOLDEN = 0x9E3779B97F4A7C15
AUGMENT = 3  # what a key is for: the draws of a sample's augmentation
_MASK = 0xFFFFFFFFFFFFFFFF


def mix(value: int) -> int:
    """Return 64 well-mixed bits of a 64-bit integer; a bijection."""
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def key(*parts: int) -> int:
    """Return a 64-bit key for a tuple of integers; order and number of the parts matter.

    >>> key(1, 2) == key(2, 1)
    False
    """
    result = GOLDEN
    for part in parts:
        result = mix(result + GOLDEN + mix(part & _MASK))
    return result


def permutation(permutation_key: int, length: int) -> NDArray[np.int64]:
    """Return a permutation of range(length): the positions sorted by their hash.

    >>> permutation(key(0), 8).tolist()
    [4, 2, 1, 7, 5, 6, 0, 3]
    """
    counters = np.arange(length, dtype=np.uint64) * np.uint64(GOLDEN) + np.uint64(permutation_key)
    return np.argsort(_mix_array(counters), kind="stable")


def _mix_array(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@dataclass
class RandomStream:
    """The draws of one key, in order. Made anew for every sample, thrown away after it."""

    key: int

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return a number in [low, high), with 53 random bits."""
        self.key = (self.key + GOLDEN) & _MASK
        return low + (high - low) * ((mix(self.key) >> 11) * 2.0**-53)

    def integer(self, below: int) -> int:
        """Return an integer in range(below)."""
        return int(self.uniform() * below)
