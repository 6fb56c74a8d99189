"""Counter-based random numbers."""

from __future__ import annotations

import numpy as np

from megabatch.data.hashing import RandomStream, key, mix, permutation


def test_mix_is_splitmix64() -> None:
    """The first outputs of SplitMix64 with seed 0, as its authors' reference code prints them."""
    golden = 0x9E3779B97F4A7C15
    assert [mix(golden * n) for n in (1, 2)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def test_keys_depend_on_every_part_and_on_their_order() -> None:
    keys = {key(), key(0), key(0, 0), key(1, 2), key(2, 1), key(1, 2, 0), key(-1), key(2**63)}
    assert len(keys) == 8


def test_permutations_are_uniform() -> None:
    first = np.bincount([permutation(key(n), 5)[0] for n in range(5000)], minlength=5)
    assert first.min() > 900
    assert first.max() < 1100


def test_uniform_numbers_are_uniform_and_never_reach_the_upper_end() -> None:
    stream = RandomStream(key(3))
    drawn = np.array([stream.uniform(2.0, 4.0) for _ in range(10_000)])
    assert drawn.min() >= 2.0
    assert drawn.max() < 4.0
    assert abs(drawn.mean() - 3.0) < 0.02
    assert abs(drawn.std() - 2 / np.sqrt(12)) < 0.02
    assert {RandomStream(key(n)).integer(3) for n in range(50)} == {0, 1, 2}
