"""Cutting a crop out of a JPEG with restart markers: the pixels of a full decode, and only the segments it needs."""

from __future__ import annotations

import io

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from megabatch.data.decode import EncodedImage
from megabatch.data.jpeg.cut import decode_cut, restart_interval
from megabatch.data.jpeg.header import Region, read_header

UNIT_WIDTHS = {"4:4:4": 8, "4:2:2": 16, "4:2:0": 16}
MILLION = 1_000_000


def jpeg(height: int, width: int, interval: int, sampling: str = "4:2:0") -> bytes:
    generator = np.random.default_rng(height * 1000 + width)
    small = Image.fromarray(generator.integers(0, 255, (7, 9, 3), dtype=np.uint8))
    smooth = np.array(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noisy = (smooth + generator.integers(-20, 20, smooth.shape)).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(
        buffer, "JPEG", quality=85, subsampling=sampling, optimize=True, restart_marker_blocks=interval
    )
    return buffer.getvalue()


def cut(payload: bytes, region: Region) -> np.ndarray | None:
    header = read_header(payload)
    return None if header is None else decode_cut(payload, header, region)


def part_of_full_decode(payload: bytes, region: Region) -> np.ndarray:
    top, left, height, width = region
    return simplejpeg.decode_jpeg(payload, "RGB")[top : top + height, left : left + width]


def restarts(payload: bytes) -> list[int]:
    """Return where the restart markers are."""
    scan = payload.index(b"\xff\xda")
    pairs = zip(payload[scan:], payload[scan + 1 :], strict=False)
    return [scan + at for at, (first, second) in enumerate(pairs) if first == 0xFF and 0xD0 <= second <= 0xD7]


@st.composite
def cases(draw: st.DrawFn) -> tuple[bytes, Region, int, int]:
    height, width = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    region = Region(top, left, draw(st.integers(1, height - top)), draw(st.integers(1, width - left)))
    sampling, interval = draw(st.sampled_from(sorted(UNIT_WIDTHS))), draw(st.integers(1, 6))
    units = -(-width // UNIT_WIDTHS[sampling])
    return jpeg(height, width, interval, sampling), region, units, interval


@settings(deadline=None, max_examples=200)
@given(cases())
def test_a_cut_has_the_pixels_of_a_full_decode(case: tuple[bytes, Region, int, int]) -> None:
    payload, region, units, interval = case
    pixels = cut(payload, region)
    assert (pixels is None) == (units % interval != 0)  # else a segment goes from one row of units into the next
    if pixels is not None:
        assert np.array_equal(pixels, part_of_full_decode(payload, region))
    assert np.array_equal(EncodedImage(payload, MILLION).region(region), part_of_full_decode(payload, region))


def test_only_the_segments_around_the_region_are_decoded() -> None:
    pixels = cut(jpeg(400, 512, interval=2), Region(100, 200, 60, 70))
    assert pixels is not None
    assert pixels.base is not None
    assert pixels.base.shape == (80, 96, 3)  # rows 96 to 176 in units of 16, columns 192 to 288 in segments of 32


def test_a_grey_image_is_cut_too() -> None:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpeg(100, 128, 1))).convert("L").save(buffer, "JPEG", restart_marker_blocks=4)
    region = Region(30, 40, 20, 50)
    assert np.array_equal(cut(buffer.getvalue(), region), part_of_full_decode(buffer.getvalue(), region))


def test_a_jpeg_without_restart_markers_is_not_cut() -> None:
    assert cut(jpeg(64, 64, interval=0), Region(0, 0, 8, 8)) is None


def test_a_scan_without_all_components_is_not_cut() -> None:
    payload = bytearray(jpeg(64, 64, interval=2))
    payload[payload.index(b"\xff\xda") + 4] = 1
    assert cut(bytes(payload), Region(0, 0, 8, 8)) is None


@pytest.mark.parametrize("change", ["lost", "misnumbered", "one more"])
def test_markers_that_are_not_as_they_should_be_are_refused(change: str) -> None:
    payload = bytearray(jpeg(160, 160, interval=2))
    at = restarts(payload)[-1]  # far from the region
    if change == "lost":
        del payload[at : at + 2]
    elif change == "misnumbered":
        payload[at + 1] = 0xD0 + (payload[at + 1] + 3) % 8
    else:
        payload[at:at] = b"\xff\xd1"
    assert cut(bytes(payload), Region(0, 0, 20, 20)) is None
    with pytest.raises(ValueError, match=r"Corrupt"):
        simplejpeg.decode_jpeg(bytes(payload), "RGB")


def test_damage_within_the_region_is_refused() -> None:
    payload = bytearray(jpeg(160, 160, interval=2))
    second, third = restarts(payload)[1:3]
    del payload[second + 2 : third - 1]
    region = Region(0, 0, 16, 160)
    assert cut(bytes(payload), region) is None
    with pytest.raises(ValueError, match=r"Corrupt"):
        EncodedImage(bytes(payload), MILLION).region(region)


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 3000), st.binary(min_size=1, max_size=6))
def test_damage_anywhere_gives_none_or_a_region_of_the_right_size(at: int, patch: bytes) -> None:
    whole = jpeg(64, 64, interval=2)
    payload = whole[:at] + patch + whole[at + len(patch) :]
    pixels = cut(payload, Region(20, 20, 10, 10))
    assert pixels is None or pixels.shape == (10, 10, 3)


@given(st.integers(1, 70_000))
def test_the_interval_divides_a_row(width: int) -> None:
    assert -(-width // 16) % restart_interval(width, 16) == 0
