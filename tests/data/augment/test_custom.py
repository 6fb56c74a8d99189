"""A transform of the user's own: what it gets, and that it is blamed itself, never an image."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from megabatch.configs.transforms import CenterCrop, CustomTransform, Resize, never_square
from megabatch.data.augment.chain import chain, decoding_chain
from megabatch.data.errors import OwnPartError
from megabatch.data.hashing import RandomStream, key

OWN = "support.transforms"


def test_it_gets_the_image_the_draws_of_the_sample_and_its_options() -> None:
    dimmed = chain([CustomTransform(function=f"{OWN}:dimmed", options={"least": 0.5})], 8)
    white_HWC = np.full((8, 8, 3), 255, np.uint8)
    drawn = [RandomStream(key(number)).uniform(0.5, 1.0) for number in range(5)]
    levels = [int(dimmed(white_HWC, RandomStream(key(number))).max()) for number in range(5)]
    assert levels == [int(255 * factor) for factor in drawn]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (f"{OWN}:broken", "ValueError: no such colour"),
        (f"{OWN}:floats", r"returned float64 \(8, 8, 3\), not a uint8 array"),
        (f"{OWN}:nothing", "returned NoneType, not a uint8 array"),
        (f"{OWN}:dimmed", "TypeError: .* missing 1 required positional argument: 'least'"),
        ("nowhere:sharpen", "No module named 'nowhere'"),
        ("math:sharpen", "no attribute 'sharpen'"),
    ],
)
def test_what_is_wrong_with_it_is_told_with_its_name_and_no_image_is_blamed(function: str, message: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    decode = decoding_chain([CustomTransform(function=function)], 8, 1000)
    with pytest.raises(OwnPartError, match=f"transform {function}: .*{message}"):
        decode(buffer.getvalue(), RandomStream(0), np.empty((8, 8, 3), np.uint8))


def test_the_plan_knows_no_size_behind_it() -> None:
    own = CustomTransform(function=f"{OWN}:dimmed")
    assert never_square([Resize(size=4), own], 8) is None
    assert never_square([Resize(size=4), own, CenterCrop()], 8) is None
