"""The hash barely changes with an image's encoding; the search finds what comparing all pairs finds."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from megabatch.data.clean.perceptual_hash import FINE_LIMIT, Hashes, distance, near_pairs, perceptual_hash
from support.dirty_shards import encoded, picture


def hash_of(image: Image.Image) -> Hashes:
    return perceptual_hash(image.convert("L"))


def again(image: Image.Image, quality: int = 60) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, quality=quality)))


def found(hashes: Hashes, coarse: int, fine: int) -> set[tuple[int, int]]:
    return {(later, earlier) for block in near_pairs(hashes, coarse, fine) for later, earlier in block.tolist()}


def compared(hashes: Hashes, coarse: int, fine: int) -> set[tuple[int, int]]:
    return {
        (later, earlier)
        for later in range(len(hashes))
        for earlier in range(later)
        if int(hashes[later, 0] ^ hashes[earlier, 0]).bit_count() <= coarse
        and distance(hashes[later], hashes[earlier]) <= fine
    }


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 60), st.integers(0, 14), st.integers(0, 90))
def test_the_search_finds_what_comparing_all_pairs_finds(seed: int, count: int, coarse: int, fine: int) -> None:
    random = np.random.default_rng(seed)
    centres = random.integers(0, 2, (3, 256), dtype=np.uint8)
    flips = random.random((count, 256)) < random.uniform(0, 0.2, (count, 1))
    bits = centres[random.integers(3, size=count)] ^ flips
    hashes = np.packbits(bits, axis=1).view(">u8").astype(np.uint64)
    assert found(hashes, coarse, fine) == compared(hashes, coarse, fine)


def test_equal_hashes_are_found_in_many_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megabatch.data.clean.perceptual_hash._BLOCK_PAIRS", 100)
    hashes = np.zeros((90, 4), dtype=np.uint64)
    blocks = list(near_pairs(hashes, 4, 64))
    assert max(map(len, blocks)) <= 100
    assert found(hashes, 4, 64) == {(later, earlier) for later in range(90) for earlier in range(later)}


def test_an_image_stored_again_resized_or_cropped_stays_near() -> None:
    for number in range(40):
        image = picture(number, 240, 180)
        original = hash_of(image)
        for changed in (
            again(image),
            again(image.resize((168, 126), Image.Resampling.BICUBIC)),
            again(image.crop((3, 2, 237, 178))),
            image.point(lambda value: min(255, int(value * 1.1))),
        ):
            assert distance(original, hash_of(changed)) <= FINE_LIMIT


def test_unrelated_images_are_not_near() -> None:
    hashes = np.array([hash_of(picture(number)) for number in range(300)])
    assert found(hashes, 9, 64) == set()


def test_the_hash_is_the_same_on_every_machine() -> None:
    grey = (np.arange(48 * 64) ** 2 // 97 % 251).astype(np.uint8).reshape(48, 64)
    words = [f"{word:016x}" for word in perceptual_hash(Image.fromarray(grey))]
    assert words == ["b31a6ccc4660d20f", "7cd3c603980070c8", "f06cf8b77420ce06", "99e26d8c41ee9046"]
