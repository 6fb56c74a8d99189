"""Damaged shards of photographs, when they are indexed, verified and trained on: told with shard, byte and key."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
from pathlib import Path

import pytest

from megabatch.data.augment.chain import decoding_chain
from megabatch.data.dataset import Dataset, missing_or_changed_shards, read_dataset
from megabatch.data.errors import DataError
from megabatch.data.indexing import index_shards, verify
from megabatch.data.loader import Loader
from megabatch.data.read import SplitReader
from megabatch.data.requests import evaluation_requests
from megabatch.data.tar_headers import is_header_of
from megabatch.data.tar_index import index_tar, read_index
from support.damage import BLOCK, CLASSES, KINDS, TILE, Target, photo_dataset, target

HARMED = "train-000001.tar"
Samples = list[tuple[bytes, int]]

# What indexing says, with KEY and BYTE (of the harmed sample) filled in; "" where headers alone cannot tell.
WHEN_INDEXED = {
    "garbage header in the middle": "byte BYTE, after '[^']+': no tar header",
    "two zeroed blocks in the middle": "byte BYTE, after '[^']+': no tar header but zeros, and data follows at byte",
    "cut exactly at a header": "byte BYTE, after '[^']+': the end-of-archive marker is missing",
    "cut inside a header": "byte BYTE, after '[^']+': the file ends at byte .*, inside a header",
    "cut between the members of a sample": "after 'KEY.cls': the end-of-archive marker is missing",
    "cut inside a payload": "after 'KEY.cls': 'KEY.jpg' should have .* bytes, but the file ends at",
    "an empty file": "byte 0: not a plain tar file but an empty one",
    "a web page instead": "byte 0: not a plain tar file but an HTML or XML page",
    "interleaved members": "comes twice, or its members are not side by side",
    "zeros from a header on": "byte BYTE, after '[^']+': .* bytes of zeros to the end",
    "zeros from inside a payload on": "after 'KEY.jpg': .* bytes of zeros to the end",
    "nothing but zeros": "byte 0: .* bytes of zeros to the end",
    "something after the end": "after '[^']+': no tar header but zeros, and data follows at byte",
    "a zeroed payload": "",
    "a bit flip in a payload": "",
    "a label changed in place": "",
    "another shard of the same layout": "",
}
# What the loader says of a shard that was harmed after it was indexed; "" where it goes on without a word.
SIZE = "bytes, but dataset.json recorded"
WHEN_TRAINED_ON = {
    "garbage header in the middle": "",  # and it delivers every sample: the index knows where they lie
    "two zeroed blocks in the middle": r"KEY.cls: b'\\x00' is no integer",
    "cut exactly at a header": SIZE,
    "cut inside a header": SIZE,
    "cut between the members of a sample": SIZE,
    "cut inside a payload": SIZE,
    "an empty file": "cannot be opened",
    "a web page instead": SIZE,
    "interleaved members": "is no integer|not a JPEG|no longer the header of sample",
    "zeros from a header on": r"KEY.cls: b'\\x00' is no integer|no longer the header of sample KEY",
    "zeros from inside a payload on": "sample KEY: ",
    "nothing but zeros": "is no integer|no longer the header of sample",
    "something after the end": SIZE,
    "a zeroed payload": "sample KEY: not a JPEG, PNG, WebP",
    "a bit flip in a payload": "",
    "a label changed in place": "",
    "another shard of the same layout": "byte .*: no longer the header of sample",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return photo_dataset(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def copy(whole: Dataset, tmp_path: Path) -> Dataset:
    shutil.copytree(whole.folder, tmp_path / "data")
    return read_dataset(tmp_path / "data")


def harm(copy: Dataset, kind: str) -> Target:
    shard = copy.folder / HARMED
    before = target(shard)
    after = KINDS[kind](before)
    assert after != before.raw
    shard.write_bytes(after)
    return before


def filled(message: str, harmed: Target) -> str:
    return message.replace("KEY", re.escape(harmed.sample.key)).replace("BYTE", str(harmed.header))


def train(dataset: Dataset) -> Samples:
    """Load every sample once, as a rank does."""
    reader = SplitReader(dataset.folder, dataset.split("train"))
    loader = Loader(reader, decoding_chain([], TILE, 10**6), TILE, CLASSES, seed=0, threads=1)
    batches = loader.load(evaluation_requests(reader.samples, 4, 0, 1))
    return [
        (image.numpy().tobytes(), int(label))
        for batch in batches
        for image, label in zip(batch.images_NHWC, batch.labels_N, strict=True)
    ]


def no_progress(done: int, total: int) -> None:
    pass


def test_every_kind_of_damage_is_in_both_tables() -> None:
    assert list(WHEN_INDEXED) == list(WHEN_TRAINED_ON) == list(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_indexing_refuses_what_headers_can_tell(copy: Dataset, kind: str) -> None:
    harmed = harm(copy, kind)
    if not WHEN_INDEXED[kind]:
        assert len(index_tar(copy.folder / HARMED)) == 10
        return
    with pytest.raises(DataError, match=filled(WHEN_INDEXED[kind], harmed)) as caught:
        index_shards(copy.folder, None, no_progress)
    assert str(caught.value).startswith(f"{copy.folder / HARMED}: byte ")


@pytest.mark.parametrize("kind", KINDS)
def test_verify_finds_every_kind_of_damage_and_nothing_else(copy: Dataset, kind: str) -> None:
    assert verify(copy, no_progress) == []
    harm(copy, kind)
    (problem,) = verify(copy, no_progress)
    assert problem.startswith(f"{copy.folder / HARMED}: ")


@pytest.mark.parametrize("kind", list(KINDS))
def test_training_tells_damage_or_loses_nothing_but_what_only_a_checksum_can_tell(copy: Dataset, kind: str) -> None:
    before = train(copy)
    harmed = harm(copy, kind)
    if WHEN_TRAINED_ON[kind]:
        with pytest.raises(DataError, match=filled(WHEN_TRAINED_ON[kind], harmed)) as caught:
            train(copy)
        assert str(caught.value).startswith(f"{copy.folder / HARMED}: ")
    else:
        after = train(copy)
        changed = sum(one != other for one, other in zip(before, after, strict=True))
        assert changed == {"a bit flip in a payload": 1, "a label changed in place": 1}.get(kind, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_launch_refuses_what_changed_the_size_of_a_shard(copy: Dataset, kind: str) -> None:
    harm(copy, kind)
    shard = copy.folder / HARMED
    same_size = shard.stat().st_size == copy.split("train").shards[1].bytes
    problems = missing_or_changed_shards(copy, ["train"])
    assert problems == [] if same_size else [shard.name in problem for problem in problems] == [True]


def test_damage_of_a_payload_that_was_there_before_indexing_is_found_by_decoding(copy: Dataset) -> None:
    harmed = harm(copy, "a zeroed payload")
    again = index_shards(copy.folder, None, no_progress)
    assert verify(again, no_progress) == []
    (problem,) = verify(again, no_progress, decode=True)
    assert problem.startswith(f"{copy.folder / HARMED}: byte ")
    assert problem.endswith(f": sample {harmed.sample.key}: not a JPEG, PNG, WebP, BMP, GIF or TIFF image")


@pytest.mark.parametrize("kind", KINDS)
def test_the_header_before_a_payload_tells_a_shard_that_is_not_the_one_indexed(copy: Dataset, kind: str) -> None:
    harm(copy, kind)
    raw = (copy.folder / HARMED).read_bytes().ljust(10**6, b"\0")
    fits = [
        is_header_of(raw[member.offset - BLOCK : member.offset], sample.key, member.size)
        for sample in read_index((copy.folder / HARMED).with_suffix(".idx"))
        for member in sample.members
    ]
    payload_only = {
        "a zeroed payload",
        "a bit flip in a payload",
        "a label changed in place",
        "something after the end",
    }
    assert all(fits) == (kind in payload_only)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("key", ["n01/a", "x" * 94, "x" * 95, "x" * 300, "köln", "folder/" * 30 + "a"])
def test_the_header_of_a_member_of_any_name_fits(tmp_path: Path, key: str, form: int) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
        for extension in ("cls", "jpeg"):
            info = tarfile.TarInfo(f"{key}.{extension}")
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    (sample,) = index_tar(tmp_path / "a.tar")
    raw = (tmp_path / "a.tar").read_bytes()
    for member in sample.members:
        header = raw[member.offset - BLOCK : member.offset]
        assert is_header_of(header, key, 3)
        assert not is_header_of(header, key, 4)
        assert is_header_of(header, f"{key}x", 3) == (len(key) > 94 or not key.isascii())
