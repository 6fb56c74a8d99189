"""Shards that somebody else made: how they become a data set, and how every byte of one is checked."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from webdataset import TarWriter

from megabatch.data.dataset import Dataset, read_dataset
from megabatch.data.errors import DataError
from megabatch.data.indexing import index_shards, verify
from megabatch.data.tar_index import read_index
from support.shards import dataset


def no_progress(done: int, total: int) -> None:
    pass


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def shard(path: Path, labels: list[int]) -> None:
    with TarWriter(str(path), encoder=False) as tar:
        for number, label in enumerate(labels):
            tar.write({"__key__": f"{number}", "png": png(label * 20), "cls": str(label).encode()})


def test_foreign_shards_become_splits_by_name_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name, labels in (("train-10", [0]), ("train-9", [1, 2]), ("val_00", [1]), ("test.0", [0])):
        shard(tmp_path / f"{name}.tar", labels)
    found = index_shards(tmp_path, None, no_progress)
    assert {split.name: [s.file for s in split.shards] for split in found.splits} == {
        "train": ["train-9.tar", "train-10.tar"], "validation": ["val_00.tar"], "test": ["test.0.tar"],
    }  # fmt: skip
    assert found.split("train").label_counts == {0: 1, 1: 1, 2: 1}
    assert found.classes == ("0", "1", "2")
    assert read_dataset(tmp_path) == found
    assert verify(found, no_progress, decode=True) == []


def test_class_names_come_from_the_file_and_a_label_outside_them_is_kept_for_the_plan_to_refuse(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar", [0, 3])
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    found = index_shards(tmp_path, None, no_progress)
    assert found.classes == ("cat", "dog")
    assert found.split("train").label_range() == (0, 3)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "no .tar files in it"),
        (lambda folder: shard(folder / "00000.tar", [0]), "call shards train-000000.tar"),
        (lambda folder: shard(folder / "train-0.tar", [2_000_000]), "the largest label is 2,000,000, which is no class"),
        (lambda folder: (shard(folder / "train-0.tar", [0]), (folder / "classes.txt").write_text("a\n\nb\n")),
         "classes.txt:2: an empty line would shift every class after it"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_data_set_is_told(tmp_path: Path, prepare: object, message: str) -> None:
    prepare(tmp_path)  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        index_shards(tmp_path, None, no_progress)


@pytest.fixture
def good(tmp_path: Path) -> Dataset:
    return dataset(tmp_path, {"train": 30})


def damage(described: Dataset, number: int, zeros: int) -> str:
    """Overwrite part of the payload of one image: no header changes, so no streaming reader would notice."""
    file = described.folder / f"train-{number:06d}.tar"
    sample = read_index(file.with_suffix(".idx"))[4]
    image = next(member for member in sample.members if member.extension == "png")
    with file.open("r+b") as opened:
        opened.seek(image.offset + image.size - zeros)
        opened.write(bytes(zeros))
    return sample.key


def test_a_flipped_payload_is_found_by_its_checksum(good: Dataset) -> None:
    damage(good, 1, zeros=1)
    (problem,) = verify(good, no_progress, decode=False)
    assert "train-000001.tar: the bytes differ from those recorded" in problem


def test_images_that_were_broken_before_they_were_indexed_are_found_by_decoding(good: Dataset) -> None:
    key = damage(good, 2, zeros=60)
    again = index_shards(good.folder, None, no_progress)
    assert verify(again, no_progress, decode=False) == []
    (problem,) = verify(again, no_progress, decode=True)
    assert f": sample {key}: " in problem
    assert "train-000002.tar: byte " in problem


def test_a_missing_shard_and_an_index_that_does_not_fit_are_found(good: Dataset) -> None:
    (good.folder / "train-000000.tar").unlink()
    (good.folder / "train-000001.idx").write_text((good.folder / "train-000002.idx").read_text())
    problems = verify(good, no_progress, decode=False)
    assert len(problems) == 2
    assert "train-000000.tar: missing" in problems[0]
    assert "train-000001.idx: does not fit the shard" in problems[1]
