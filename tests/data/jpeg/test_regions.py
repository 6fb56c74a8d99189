"""Decoding a part of a JPEG: the pixels of a full decode, whatever the sampling, and damage is not passed over."""

from __future__ import annotations

import io

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from megabatch.data import decode
from megabatch.data.decode import EncodedImage, decode_image
from megabatch.data.jpeg.header import JpegHeader, Region, read_header
from megabatch.data.jpeg.rows import decode_upper_rows
from megabatch.data.jpeg.turbojpeg3 import Found, find_turbojpeg3

SAMPLINGS = ("444", "422", "420", "440", "411", "Gray")
MILLION = 1_000_000


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return something with edges, gradients and noise."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 255, (7, 9, 3), dtype=np.uint8))
    smooth = np.array(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return (smooth + generator.integers(-20, 20, smooth.shape)).clip(0, 255).astype(np.uint8)


def jpeg(height: int, width: int, sampling: str = "420", **options: object) -> bytes:
    image = photo(height, width)
    if sampling == "Gray":
        return simplejpeg.encode_jpeg(image[:, :, :1].copy(), 85, "GRAY", "Gray")
    if options:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=85, **options)
        return buffer.getvalue()
    return simplejpeg.encode_jpeg(image, 85, "RGB", sampling)


@pytest.fixture(params=["as found here", "without libjpeg-turbo 3"])
def any_decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with libjpeg-turbo 3 where this machine has it, and once surely without."""
    if request.param == "without libjpeg-turbo 3":
        monkeypatch.setattr(decode, "find_turbojpeg3", lambda: Found(None, "switched off"))


@st.composite
def cases(draw: st.DrawFn) -> tuple[bytes, Region]:
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    region = Region(top, left, draw(st.integers(1, height - top)), draw(st.integers(1, width - left)))
    return jpeg(height, width, draw(st.sampled_from(SAMPLINGS))), region


def cut(pixels: np.ndarray, region: Region) -> np.ndarray:
    top, left, height, width = region
    return pixels[top : top + height, left : left + width]


@settings(deadline=None, max_examples=150)
@given(cases())
def test_a_region_has_the_pixels_of_a_full_decode(case: tuple[bytes, Region]) -> None:
    payload, region = case
    whole = simplejpeg.decode_jpeg(payload, "RGB")
    assert np.array_equal(EncodedImage(payload, MILLION).region(region), cut(whole, region))


@settings(deadline=None, max_examples=150)
@given(cases())
def test_the_upper_rows_have_the_pixels_of_a_full_decode(case: tuple[bytes, Region]) -> None:
    payload, region = case
    header = read_header(payload)
    assert header is not None
    rows = decode_upper_rows(payload, header, region.top + region.height)
    if rows is not None:
        assert np.array_equal(cut(rows, region), cut(simplejpeg.decode_jpeg(payload, "RGB"), region))


def test_the_upper_rows_are_all_that_is_decoded() -> None:
    payload = jpeg(400, 300)
    header = read_header(payload)
    assert header is not None
    rows = decode_upper_rows(payload, header, 90)
    assert rows is not None
    assert rows.shape == (96, 300, 3)


@pytest.mark.usefixtures("any_decoder")
@pytest.mark.parametrize(
    "options",
    [{"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}, {"exif": b"Exif\0\0" + bytes(3000)}],
)
def test_other_kinds_of_jpeg_come_out_the_same(options: dict[str, object]) -> None:
    payload, region = jpeg(120, 90, **options), Region(10, 20, 50, 40)
    assert np.array_equal(EncodedImage(payload, MILLION).region(region), cut(decode_image(payload, MILLION), region))


@pytest.mark.usefixtures("any_decoder")
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_other_formats_are_decoded_whole(kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(photo(40, 50)).save(buffer, kind, lossless=True)
    image = EncodedImage(buffer.getvalue(), MILLION)
    assert (image.height, image.width) == (40, 50)
    assert np.array_equal(image.region(Region(3, 4, 20, 30)), photo(40, 50)[3:23, 4:34])


@pytest.mark.usefixtures("any_decoder")
@pytest.mark.parametrize("end", [0.3, 0.6, 0.9, 0.999])
def test_a_cut_file_is_refused_even_if_the_region_is_whole(end: float) -> None:
    payload = jpeg(200, 200)
    with pytest.raises(ValueError, match=r".+"):
        EncodedImage(payload[: int(len(payload) * end)], MILLION).region(Region(0, 0, 20, 20))


@pytest.mark.usefixtures("any_decoder")
def test_damage_within_the_region_is_refused() -> None:
    payload = bytearray(jpeg(200, 200, "444"))
    scan = payload.index(b"\xff\xda") + 40
    payload[scan : scan + 60] = b"\xff\xd9" + bytes(58)  # an end marker where data must be
    with pytest.raises(ValueError, match=r"Corrupt|Premature"):
        EncodedImage(bytes(payload), MILLION).region(Region(0, 0, 100, 100))


def test_the_size_is_checked_before_anything_is_decoded() -> None:
    payload = bytearray(jpeg(40, 50))
    header = read_header(payload)
    assert header is not None
    payload[header.size_at : header.size_at + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(ValueError, match="65535 x 65535 pixels are more than"):
        EncodedImage(bytes(payload), MILLION)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_header_says_what_simplejpeg_says(sampling: str) -> None:
    payload = jpeg(33, 47, sampling)
    height, width, _, _ = simplejpeg.decode_jpeg_header(payload)
    units = {"444": (8, 8), "422": (8, 16), "420": (16, 16), "440": (16, 8), "411": (8, 32), "Gray": (8, 8)}
    components = 1 if sampling == "Gray" else 3
    at = payload.index(b"\xff\xc0") + 5
    assert read_header(payload) == JpegHeader(height, width, components, True, *units[sampling], at)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=60), st.integers(0, 700), st.binary(min_size=1, max_size=4))
def test_a_damaged_header_is_none_or_numbers_never_an_exception(junk: bytes, at: int, patch: bytes) -> None:
    whole = jpeg(33, 47)
    for payload in (b"\xff\xd8" + junk, whole[:at] + patch + whole[at + len(patch) :], whole[:at]):
        header = read_header(payload)
        assert header is None or header.unit_height % 8 == 0


def test_a_library_that_is_found_has_passed_its_test_and_one_that_is_not_has_a_reason() -> None:
    found = find_turbojpeg3()
    assert (found.library is None) == bool(found.reason)
