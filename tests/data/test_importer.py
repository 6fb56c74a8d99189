"""Images to shards and back: no byte changes, nothing is lost in silence, and an earlier data set is never harmed."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from megabatch.data.dataset import Dataset, read_dataset
from megabatch.data.errors import DataError
from megabatch.data.importer import ImportOptions, import_images
from megabatch.data.indexing import index_shards, verify
from megabatch.data.read import SplitReader
from megabatch.data.tar_index import index_tar, read_index
from support.sources import SIGNATURES, animals, image, imported, no_progress, tree, zipped


def content(dataset: Dataset, split: str) -> dict[str, tuple[str, bytes]]:
    reader = SplitReader(dataset.folder, dataset.split(split))
    samples = [reader.read(number) for number in range(reader.samples)]
    return {sample.key: (dataset.classes[sample.label], bytes(sample.image)) for sample in samples}


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "dataset.json"}


def test_every_image_comes_back_unchanged_with_its_class(tmp_path: Path) -> None:
    files = animals({"cat": 23, "dog": 19})
    dataset = imported(tree(tmp_path / "in", files), tmp_path / "out", samples_per_shard=10).dataset
    expected = {name.rpartition(".")[0]: (name.partition("/")[0], payload) for name, payload in files.items()}
    assert content(dataset, "train") == expected
    assert dataset.split("train").label_counts == {0: 23, 1: 19}
    assert [shard.samples for shard in dataset.split("train").shards] == [10, 10, 10, 10, 2]
    assert (tmp_path / "out" / "classes.txt").read_text() == "cat\ndog\n"
    assert read_dataset(tmp_path / "out") == dataset
    assert verify(dataset, no_progress) == []


def test_shards_mix_the_classes(tmp_path: Path) -> None:
    source = tree(tmp_path / "in", animals({"cat": 40, "dog": 40}))
    dataset = imported(source, tmp_path / "out", samples_per_shard=20).dataset
    for shard in dataset.split("train").shards:
        cats = sum(sample.key.startswith("cat/") for sample in index_tar(dataset.folder / shard.file))
        assert 3 < cats < 17


def test_two_imports_are_the_same_bytes_and_another_seed_another_order(tmp_path: Path) -> None:
    source = tree(tmp_path / "in", animals({"cat": 20, "dög with space": 20}))
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        imported(source, tmp_path / out, seed=seed, fractions={"train": 0.8, "validation": 0.2})
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert files_of(tmp_path / "a")["train-000000.tar"] != files_of(tmp_path / "c")["train-000000.tar"]


@pytest.mark.parametrize("wrap", ["", "photos/"])
def test_a_zip_gives_the_same_shards_as_the_folder(tmp_path: Path, wrap: str) -> None:
    files = animals({"cat": 12, "dog": 11})
    imported(tree(tmp_path / "in", files), tmp_path / "a", fractions={"train": 0.7, "test": 0.3})
    archive = zipped(tmp_path / "in.zip", {wrap + name: payload for name, payload in reversed(files.items())})
    imported(archive, tmp_path / "b", fractions={"train": 0.7, "test": 0.3})
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_a_split_of_train_keeps_the_test_folder(tmp_path: Path) -> None:
    files = animals({"cat": 20, "dog": 10}, "train/") | animals({"cat": 2}, "test/")
    shares = {"train": 0.9, "validation": 0.1}
    dataset = imported(tree(tmp_path / "in", files), tmp_path / "out", fractions=shares).dataset
    assert dataset.split("train").label_counts == {0: 18, 1: 9}
    assert dataset.split("validation").label_counts == {0: 2, 1: 1}
    assert dataset.split("test").label_counts == {0: 2}


def test_shards_end_at_the_size_that_was_asked_for(tmp_path: Path) -> None:
    files = {f"cat/{n}.png": SIGNATURES["png"] + bytes(20_000) for n in range(10)}
    options = {"max_shard_bytes": 100_000, "samples_per_shard": 100}
    dataset = imported(tree(tmp_path / "in", files), tmp_path / "out", **options).dataset
    assert [shard.samples for shard in dataset.split("train").shards] == [4, 4, 2]
    assert all(shard.bytes <= 100_000 + tarfile.RECORDSIZE for shard in dataset.split("train").shards)
    dataset = imported(tmp_path / "in", tmp_path / "one", max_shard_bytes=1).dataset
    assert [shard.samples for shard in dataset.split("train").shards] == [1] * 10


def test_awkward_names_become_keys_that_every_reader_takes(tmp_path: Path) -> None:
    names = [
        "St. Bernard/a.b c.JPG",
        "St. Bernard/a_b_c.jpeg",
        "__meta__/x.jpg",
        "Käse/" + "n" * 150 + ".jpg",
        "Käse/tief/x.jpg",
    ]
    undecodable = os.fsdecode(b"\xff.jpg")
    files = {name: image(n) for n, name in enumerate([*names, f"cat/{undecodable}"])}
    dataset = imported(tree(tmp_path / "in", files), tmp_path / "out").dataset
    found = content(dataset, "train")
    assert sorted(found) == sorted(
        ["St_Bernard/a_b_c", "St_Bernard/a_b_c_2", "_meta__/x", "Käse/" + "n" * 150, "Käse/x", "cat/_"]
    )
    assert dataset.classes == ("Käse", "St. Bernard", "__meta__", "cat")
    assert {payload for _, payload in found.values()} == set(files.values())


def test_a_folder_with_something_in_it_is_not_touched(tmp_path: Path) -> None:
    source = tree(tmp_path / "in", animals({"cat": 3}))
    out = tree(tmp_path / "out", {"mine.txt": b"x"})
    for options, message in (
        ({}, "is not an empty folder"),
        ({"overwrite": True}, "without dataset.json nothing in it"),
    ):
        with pytest.raises(DataError, match=message):
            imported(source, out, **options)
    with pytest.raises(DataError, match="is a file: give a folder"):
        imported(source, out / "mine.txt")
    assert [file.name for file in out.iterdir()] == ["mine.txt"]


def test_overwrite_replaces_an_import_and_leaves_other_files(tmp_path: Path) -> None:
    source = tree(tmp_path / "in", animals({"cat": 9}))
    out = tmp_path / "out"
    imported(source, out, samples_per_shard=3)
    (out / "mine.txt").touch()
    dataset = imported(source, out, samples_per_shard=5, overwrite=True).dataset
    names = sorted(file.name for file in out.iterdir())
    assert names == ["classes.txt", "dataset.json", "mine.txt", "train-000000.idx", "train-000000.tar",
                     "train-000001.idx", "train-000001.tar"]  # fmt: skip
    assert verify(dataset, no_progress) == []


def test_overwrite_never_replaces_shards_that_were_only_indexed(tmp_path: Path) -> None:
    source = tree(tmp_path / "in", animals({"cat": 3}))
    imported(source, tmp_path / "out")
    index_shards(tmp_path / "out", None, no_progress)
    with pytest.raises(DataError, match="only indexed, so they may be the only copy"):
        imported(source, tmp_path / "out", overwrite=True)


def test_a_file_that_no_import_wrote_is_not_replaced(tmp_path: Path) -> None:
    source = tree(tmp_path / "in", animals({"cat": 9}))
    dataset = imported(source, tmp_path / "out", samples_per_shard=9).dataset
    (tmp_path / "out" / "train-000001.tar").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"train-000001\.tar: no earlier import wrote it"):
        imported(source, tmp_path / "out", samples_per_shard=5, overwrite=True)
    assert verify(dataset, no_progress) == []
    assert (tmp_path / "out" / "train-000001.tar").read_bytes() == b"mine"


def test_a_failed_or_interrupted_import_harms_neither_the_earlier_one_nor_the_next(tmp_path: Path) -> None:
    source = tree(tmp_path / "in", animals({"cat": 9}))
    earlier = imported(source, tmp_path / "out").dataset

    def interrupt(done: int, total: int) -> None:
        interrupt.calls += 1  # type: ignore[attr-defined]
        if interrupt.calls == 9 + 5:  # type: ignore[attr-defined]  # all are checked, some are written
            raise KeyboardInterrupt

    for folder in ("out", "fresh"):
        interrupt.calls = 0  # type: ignore[attr-defined]
        with pytest.raises(KeyboardInterrupt):
            import_images(source, tmp_path / folder, ImportOptions(samples_per_shard=2, overwrite=True), interrupt)
    assert verify(earlier, no_progress) == []
    assert list((tmp_path / "fresh").iterdir()) == []
    (tmp_path / "fresh" / ".megabatch-import-killed").mkdir()
    assert verify(imported(source, tmp_path / "fresh").dataset, no_progress) == []
    assert not (tmp_path / "fresh" / ".megabatch-import-killed").exists()
    with pytest.raises(DataError, match="does not exist"):
        imported(tmp_path / "no", tmp_path / "out", overwrite=True)
    assert verify(earlier, no_progress) == []


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tree(tmp_path / "in", animals({"cat": 3}))
    full = type("Usage", (), {"free": 10})()
    monkeypatch.setattr("shutil.disk_usage", lambda path: full)
    with pytest.raises(DataError, match=r"needs about .* bytes, the disk has 10 free"):
        imported(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_verify_finds_a_flipped_bit_that_no_reader_sees(tmp_path: Path) -> None:
    dataset = imported(tree(tmp_path / "in", animals({"cat": 9})), tmp_path / "out", samples_per_shard=3).dataset
    shard = tmp_path / "out" / "train-000001.tar"
    raw = bytearray(shard.read_bytes())
    raw[index_tar(shard)[1].members[1].offset + 20] ^= 1
    shard.write_bytes(raw)
    (problem,) = verify(dataset, no_progress)
    assert problem.startswith(f"{shard}: the bytes differ from those recorded")


def test_indexing_the_shards_of_an_import_finds_the_same_data_set(tmp_path: Path) -> None:
    files = animals({"cat": 9, "dog": 4}, "train/") | animals({"dog": 2}, "val/")
    dataset = imported(tree(tmp_path / "in", files), tmp_path / "out", samples_per_shard=5).dataset
    indexes = {file.name: read_index(file) for file in dataset.folder.glob("*.idx")}
    for file in (*dataset.folder.glob("*.idx"), dataset.folder / "dataset.json"):
        file.unlink()
    found = index_shards(tmp_path / "out", None, no_progress)
    assert (found.classes, found.splits) == (dataset.classes, dataset.splits)
    assert {file.name: read_index(file) for file in dataset.folder.glob("*.idx")} == indexes
