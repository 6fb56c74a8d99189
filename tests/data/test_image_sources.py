"""Folders and zips as people have them: split and class are told from the folders, or the source is refused."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from megabatch.data.errors import DataError
from megabatch.data.tar_index import read_index
from support.sources import animals, image, imported, tree, zipped


def test_split_folders_become_splits_and_val_is_written_as_validation(tmp_path: Path) -> None:
    files = animals({"cat": 6, "dog": 6}, "train/") | animals({"cat": 2}, "val/") | animals({"dog": 3}, "test/")
    dataset = imported(tree(tmp_path / "in", files), tmp_path / "out").dataset
    assert [(split.name, split.samples) for split in dataset.splits] == [("train", 12), ("validation", 2), ("test", 3)]
    indexes = sorted((tmp_path / "out").glob("*.idx"))
    keys = [sample.key for index in indexes for sample in read_index(index)]
    assert len(keys) == len(set(keys)) == 17
    assert {"cat/000", "cat/000_2"} <= set(keys)
    assert dataset.split("test").label_counts == {1: 3}


def test_other_files_are_counted_and_hidden_ones_never_images(tmp_path: Path) -> None:
    files = animals({"cat": 3})
    others = {name: image(0) for name in ("cat/._000.jpg", "__MACOSX/cat/000.jpg", ".git/x.png")}
    others |= {"readme.txt": b"x", "cat/.DS_Store": b"x"}
    result = imported(zipped(tmp_path / "in.zip", files | others), tmp_path / "out")
    assert (result.dataset.split("train").samples, result.ignored_files, result.broken) == (3, 5, ())


def test_broken_images_are_listed_together_or_left_out(tmp_path: Path) -> None:
    bad = {f"cat/bad, {n:02d}.jpg": b"%!PS-A" if n else b"" for n in range(12)}
    source = tree(tmp_path / "in", animals({"cat": 3}) | bad)
    with pytest.raises(DataError) as caught:
        imported(source, tmp_path / "out")
    lines = str(caught.value).splitlines()
    assert (
        lines[0]
        == f"{source}: 12 files are no JPEG, PNG, WebP, BMP, GIF or TIFF image (--skip-broken leaves them out):"
    )
    assert lines[1:] == [f"  {name}" for name in sorted(bad)[:10]] + ["  and 2 more"]
    assert not (tmp_path / "out").exists()
    result = imported(source, tmp_path / "out", skip_broken=True)
    assert result.broken == tuple(sorted(bad))
    assert result.dataset.split("train").samples == 3


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"readme.txt": b"x"}, "no jpg, jpeg, png, webp, bmp, gif, tif, tiff files in it"),
        ({"a.jpg": image(0), "cat/b.jpg": image(1)}, "1 images lie in no class folder: a.jpg: needed is CLASS/image.jpg"),
        ({"train/a.jpg": image(0), "test/cat/b.jpg": image(1)}, "lie in no class folder: train/a.jpg: needed is SPLIT/CLASS"),
        ({"val/a/a.jpg": image(0), "validation/a/b.jpg": image(1)}, "has both val/ and validation/"),
        ({"train/a/a.jpg": image(0), "test/b/b.jpg": image(1)}, r"test has 1 classes that train has not \(b\)"),
        ({"cat\n/a.jpg": image(0)}, "a class folder with control characters"),
    ],
)  # fmt: skip
def test_a_source_that_cannot_be_labelled_is_refused(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    source = tree(tmp_path / "in", files)
    with pytest.raises(DataError, match=message) as caught:
        imported(source, tmp_path / "out")
    assert str(caught.value).startswith(f"{source}: ")
    assert not (tmp_path / "out").exists()


def test_linked_class_folders_are_followed_but_not_in_a_circle(tmp_path: Path) -> None:
    source = tree(tmp_path / "in", animals({"cat": 3}))
    outside = tree(tmp_path / "elsewhere", animals({"dog": 2}))
    (source / "dog").symlink_to(outside / "dog")
    assert imported(source, tmp_path / "out").dataset.split("train").label_counts == {0: 3, 1: 2}
    (source / "cat" / "circle").symlink_to(source)
    with pytest.raises(DataError, match="circle: a link to a folder that was listed already"):
        imported(source, tmp_path / "out2")


def encrypted(raw: bytearray, name: bytes) -> None:
    raw[raw.rindex(name) - 46 + 8] |= 1


def other_bytes(raw: bytearray, name: bytes) -> None:
    raw[raw.index(name) + len(name) + 20] ^= 0xFF


def no_such_compression(raw: bytearray, name: bytes) -> None:
    raw[raw.rindex(name) - 46 + 10] = 97


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (encrypted, "encrypted: write the zip again without a password"),
        (other_bytes, "cannot be read: Bad CRC-32.* Copy the zip again"),
        (no_such_compression, "cannot be read: "),
    ],
)
def test_a_zip_member_that_cannot_be_read_is_named(
    tmp_path: Path, harm: Callable[[bytearray, bytes], None], message: str
) -> None:
    path = zipped(tmp_path / "in.zip", animals({"cat": 3}), zipfile.ZIP_STORED)
    raw = bytearray(path.read_bytes())
    harm(raw, b"cat/001.png")
    path.write_bytes(raw)
    with pytest.raises(DataError, match=f"{path}: cat/001.png: {message}"):
        imported(path, tmp_path / "out")
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_a_file_twice_in_a_zip_and_half_a_zip_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cat/a.jpg", image(0))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("cat/a.jpg", image(1))
    with pytest.raises(DataError, match=r"cat/a\.jpg: twice in the zip"):
        imported(path, tmp_path / "out")
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(DataError, match="is neither a folder nor a whole zip"):
        imported(path, tmp_path / "out")
    with pytest.raises(DataError, match="does not exist: give a folder of class folders"):
        imported(tmp_path / "no", tmp_path / "out")
