"""The smaller copy: the same samples in the same places, images within bounds and close to the original."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from webdataset import TarWriter

from megabatch.data.dataset import Dataset, read_dataset
from megabatch.data.decode import decode_image
from megabatch.data.errors import DataError
from megabatch.data.indexing import index_shards, verify
from megabatch.data.jpeg.cut import decode_cut
from megabatch.data.jpeg.header import Region, read_header
from megabatch.data.read import SplitReader
from megabatch.data.repack import RepackOptions, repack

SIZES = [(300, 200), (200, 300), (64, 64), (600, 60), (33, 47), (128, 128), (129, 30)]
MILLION = 1_000_000


def no_progress(done: int, total: int) -> None:
    pass


def smooth(height: int, width: int, seed: int) -> Image.Image:
    generator = np.random.default_rng(seed)  # as in a photograph, colours differ less than brightness
    levels = generator.integers(40, 215, (4, 5, 1)) + generator.integers(-25, 25, (4, 5, 3))
    small = Image.fromarray(levels.astype(np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def source(tmp_path: Path) -> Dataset:
    folder = tmp_path / "source"
    folder.mkdir()
    for first in range(0, len(SIZES), 3):
        with TarWriter(str(folder / f"train-{first:06d}.tar"), encoder=False) as tar:
            for number, (height, width) in enumerate(SIZES[first : first + 3], first):
                buffer = io.BytesIO()
                kind = ("JPEG", "PNG", "WEBP")[number % 3]
                smooth(height, width, number).save(buffer, kind, quality=95)
                tar.write({"__key__": f"k{number}", kind.lower(): buffer.getvalue(), "cls": str(number % 2).encode()})
    return index_shards(folder, None, no_progress)


def test_keys_labels_order_and_shards_stay_and_images_fit(source: Dataset, tmp_path: Path) -> None:
    copy = repack(source, tmp_path / "copy", RepackOptions(max_size=128), no_progress)
    assert copy == read_dataset(tmp_path / "copy")
    assert verify(copy, no_progress, decode=True) == []
    assert [s.samples for s in copy.split("train").shards] == [s.samples for s in source.split("train").shards]
    assert copy.split("train").label_counts == source.split("train").label_counts
    before, after = (SplitReader(d.folder, d.split("train")) for d in (source, copy))
    for number, (height, width) in enumerate(SIZES):
        old, new = before.read(number), after.read(number)
        assert (old.key, old.label) == (new.key, new.label)
        pixels = decode_image(new.image, MILLION)
        assert max(pixels.shape) <= 128
        assert pixels.shape[0] / pixels.shape[1] == pytest.approx(height / width, rel=0.2)
        expected = Image.fromarray(decode_image(old.image, MILLION)).resize(
            pixels.shape[1::-1], Image.Resampling.LANCZOS
        )
        error = float(((pixels.astype(float) - np.array(expected)) ** 2).mean())
        assert 10 * math.log10(255**2 / max(error, 1e-3)) >= 35


def test_what_was_encoded_can_be_cut(source: Dataset, tmp_path: Path) -> None:
    copy = repack(source, tmp_path / "copy", RepackOptions(max_size=128, quality=50), no_progress)
    reader, region = SplitReader(copy.folder, copy.split("train")), Region(3, 2, 20, 10)
    for number in range(len(SIZES)):
        payload = reader.read(number).image
        header = read_header(payload)
        assert header is not None
        part = decode_cut(payload, header, region)
        assert part is not None
        assert np.array_equal(part, decode_image(payload, MILLION)[3:23, 2:12])


def test_the_bytes_do_not_depend_on_the_threads(source: Dataset, tmp_path: Path) -> None:
    copies = [repack(source, tmp_path / str(n), RepackOptions(100, 80, threads=n), no_progress) for n in (1, 3)]
    assert copies[0].splits == copies[1].splits


def test_a_small_image_that_would_not_become_smaller_keeps_its_bytes(source: Dataset, tmp_path: Path) -> None:
    copy = repack(source, tmp_path / "copy", RepackOptions(max_size=1000, quality=100), no_progress)
    before, after = (SplitReader(d.folder, d.split("train")) for d in (source, copy))
    assert bytes(after.read(0).image) == bytes(before.read(0).image)
    assert bytes(after.read(1).image[:3]) == b"\xff\xd8\xff"  # was a PNG


def test_a_broken_image_is_named_and_leaves_no_data_set(source: Dataset, tmp_path: Path) -> None:
    with TarWriter(str(source.folder / "train-000009.tar"), encoder=False) as tar:
        tar.write({"__key__": "bad", "jpg": b"\xff\xd8\xff broken", "cls": b"0"})
    hurt = index_shards(source.folder, None, no_progress)
    with pytest.raises(DataError, match=r"train-000009.tar: byte \d+: sample bad: .*megabatch data clean"):
        repack(hurt, tmp_path / "copy", RepackOptions(), no_progress)
    assert list((tmp_path / "copy").iterdir()) == []


def test_a_folder_with_something_in_it_is_not_touched(source: Dataset, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="is not an empty folder"):
        repack(source, tmp_path / "copy", RepackOptions(), no_progress)
