"""A hash that hardly changes when an image is compressed again, resized or cropped a little; a search for near ones.

The hash is the signs of the 256 lowest frequencies of the cosine transform of a grey 32 x 32 image, lowest first
(pHash: Zauner 2010, with 256 instead of 64 bits and signs instead of a comparison with the median). Two images are
near if at most 9 of their first 64 bits and at most 64 of all 256 differ; docs/cleaning.md has figures. The
transform is two matrix products here; the ImageHash package would bring scipy and PyWavelets for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Hashes = NDArray[np.uint64]
Pairs = NDArray[np.int64]
WORDS = 4
SIDE = 32
MIN_SIDE = 24  # a smaller image has fewer frequencies than the hash: handwritten digits of 8 x 8 would all be near
COARSE_LIMIT = 9
FINE_LIMIT = 64
_BITS = 64 * WORDS
_FREQUENCIES = 24  # of each axis, enough for the lowest 256
_BANDS = 5
_BLOCK_PAIRS = 1 << 20


def _cosines() -> NDArray[np.float64]:
    """Return the cosine transform as whole numbers: products stay exact in float64, so equal on every machine."""
    frequency, position = np.arange(_FREQUENCIES)[:, None], np.arange(SIDE)[None]
    cosines: NDArray[np.float64] = np.rint(4096 * np.cos(np.pi * (2 * position + 1) * frequency / (2 * SIDE)))
    return cosines


def _lowest() -> NDArray[np.intp]:
    """Return the places of the 256 lowest frequencies but the constant one, by the sum of both axes."""
    places = [(u + v, u, v) for u in range(_FREQUENCIES) for v in range(_FREQUENCIES)]
    return np.array([u * _FREQUENCIES + v for _, u, v in sorted(places)[1 : _BITS + 1]])


_COSINES, _LOWEST = _cosines(), _lowest()


def perceptual_hash(grey: Image.Image) -> Hashes:
    """Return the hash of a grey image: uint64 of shape (4,), lowest frequencies first."""
    small = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64)
    signs = (_COSINES @ small @ _COSINES.T).ravel()[_LOWEST] > 0
    return np.packbits(signs).view(">u8").astype(np.uint64)


def near_pairs(hashes: Hashes, coarse_limit: int = COARSE_LIMIT, fine_limit: int = FINE_LIMIT) -> Iterator[Pairs]:
    """Yield every pair of near hashes as rows (later, earlier), in blocks of bounded size; a pair may come again.

    The first word is cut into five bands. Two words that differ in d bits differ in at most d // 5 bits of some band
    (pigeonhole principle; Norouzi, Punjani and Fleet 2012), so only images that agree so far in a band are compared.
    """
    words = np.ascontiguousarray(hashes[:, 0])
    bounds = np.linspace(0, 64, _BANDS + 1).astype(int).tolist()
    for low, high in pairwise(bounds):
        band = ((words >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)).astype(np.int64)
        order = np.argsort(band, kind="stable")
        edges = np.searchsorted(band[order], np.arange((1 << (high - low)) + 1))
        for flipped in _flips(high - low, coarse_limit // _BANDS):
            for later, earlier in _candidates(band ^ flipped, order, edges):
                near = np.bitwise_count(words[later] ^ words[earlier]) <= coarse_limit
                later, earlier = later[near], earlier[near]
                distances = np.bitwise_count(hashes[later] ^ hashes[earlier]).sum(axis=1, dtype=np.int64)
                yield np.stack([later, earlier], axis=1)[distances <= fine_limit]


def distance(one: Hashes, other: Hashes) -> int:
    """Return how many bits of two hashes differ."""
    return int(np.bitwise_count(one ^ other).sum())


def _candidates(wanted: Pairs, order: Pairs, edges: Pairs) -> Iterator[tuple[Pairs, Pairs]]:
    """Yield (later, earlier) for all `later` and every `earlier` whose band is wanted[later].

    order[edges[b]:edges[b + 1]] are the images with band b.
    """
    starts = edges[wanted]
    counts = edges[wanted + 1] - starts
    totals = np.concatenate([[0], np.cumsum(counts)])
    first = 0
    while first < len(wanted):
        end = max(first + 1, int(np.searchsorted(totals, totals[first] + _BLOCK_PAIRS, side="right")) - 1)
        block = slice(first, end)
        later = np.repeat(np.arange(first, end), counts[block])
        place = np.arange(len(later)) + np.repeat(starts[block] - totals[block] + totals[first], counts[block])
        earlier = order[place]
        yield later[earlier < later], earlier[earlier < later]
        first = end


def _flips(bits: int, most: int) -> list[int]:
    """Return the numbers of `bits` bits with at most `most` ones."""
    return [sum(1 << bit for bit in chosen) for ones in range(most + 1) for chosen in combinations(range(bits), ones)]
