"""dataset.json: what is written is read back, and whatever is wrong with it is told with a remedy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megabatch.data.dataset import (
    Dataset,
    Shard,
    Split,
    fingerprint,
    missing_or_changed_shards,
    read_dataset,
    write_dataset,
)
from megabatch.data.errors import DataError


def described(folder: Path) -> Dataset:
    train = Split(
        "train", (Shard("train-000000.tar", 3, 10, "aa"), Shard("train-000001.tar", 2, 20, "bb")), {0: 4, 7: 1}
    )
    return Dataset(folder, ("cat", "Katze é"), (train, Split("test", (Shard("test-000000.tar", 1, 5, "cc"),), {-1: 1})))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    dataset = described(tmp_path)
    write_dataset(dataset)
    assert read_dataset(tmp_path) == dataset
    assert [file.name for file in tmp_path.iterdir()] == ["dataset.json"]


def test_a_label_outside_the_classes_is_kept_so_that_the_plan_can_refuse_it(tmp_path: Path) -> None:
    write_dataset(described(tmp_path))
    dataset = read_dataset(tmp_path)
    assert dataset.split("train").label_range() == (0, 7)
    assert dataset.split("test").label_range() == (-1, -1)
    assert dataset.split("train").samples == 5


def test_an_unknown_split_is_told_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no split 'val', only train, test"):
        described(tmp_path).split("val")


def test_a_missing_folder_and_a_missing_file_say_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder\. `megabatch data import IMAGES"):
        read_dataset(tmp_path / "no")
    with pytest.raises(DataError, match=r"dataset\.json: missing\. `megabatch data index .*` makes it"):
        read_dataset(tmp_path)


def shard_of(values: dict[str, Any]) -> dict[str, Any]:
    shard: dict[str, Any] = values["splits"]["train"]["shards"][0]
    return shard


def without_classes(values: dict[str, Any]) -> None:
    del values["classes"]


def without_checksum(values: dict[str, Any]) -> None:
    del shard_of(values)["sha256"]


def other_format(values: dict[str, Any]) -> None:
    values["format"] = "megabatch-dataset-9"


def outside(values: dict[str, Any]) -> None:
    shard_of(values)["file"] = "../train.tar"


def absolute(values: dict[str, Any]) -> None:
    shard_of(values)["file"] = "/etc/passwd"


def twice(values: dict[str, Any]) -> None:
    shard_of(values)["file"] = "train-000001.tar"


def negative(values: dict[str, Any]) -> None:
    shard_of(values)["samples"] = -3


def fraction(values: dict[str, Any]) -> None:
    shard_of(values)["bytes"] = 1.5


def lost_labels(values: dict[str, Any]) -> None:
    values["splits"]["train"]["label_counts"] = {"0": 4}


def splits_in_a_list(values: dict[str, Any]) -> None:
    values["splits"] = []


def class_is_a_number(values: dict[str, Any]) -> None:
    values["classes"] = [1]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (without_classes, "has no 'classes'"),
        (without_checksum, "has no 'sha256'"),
        (other_format, "format 'megabatch-dataset-9', but this version of megabatch reads 'megabatch-dataset-1'"),
        (outside, "shard '../train.tar' is no file inside the folder"),
        (absolute, "shard '/etc/passwd' is no file inside the folder"),
        (twice, "shard 'train-000001.tar' comes twice"),
        (negative, "-3 where a count must be"),
        (fraction, "1.5 where a count must be"),
        (lost_labels, "split 'train' has 5 samples, but 4 labels"),
        (splits_in_a_list, "no description of a data set"),
        (class_is_a_number, "1 where a text must be"),
    ],
)
def test_a_damaged_description_says_what_is_wrong_and_how_to_make_it_anew(
    tmp_path: Path, harm: Any, message: str
) -> None:
    write_dataset(described(tmp_path))
    file = tmp_path / "dataset.json"
    values = json.loads(file.read_text())
    harm(values)
    file.write_text(json.dumps(values))
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path)
    assert str(caught.value).startswith(f"{file}: {message}")
    assert str(caught.value).endswith(f". `megabatch data index {tmp_path}` makes it anew")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "[" * 100_000, '{"format": NaN}', "\0"])
def test_what_is_no_description_at_all_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=r"dataset\.json: .*makes it anew"):
        read_dataset(tmp_path)


def test_a_failed_write_leaves_the_earlier_description_and_nothing_else(tmp_path: Path) -> None:
    dataset = described(tmp_path)
    write_dataset(dataset)
    unwritable = replace(dataset, classes=(b"bytes",))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        write_dataset(unwritable)
    assert read_dataset(tmp_path) == dataset
    assert [file.name for file in tmp_path.iterdir()] == ["dataset.json"]


def test_missing_and_changed_shards_are_listed_for_the_asked_splits(tmp_path: Path) -> None:
    dataset = described(tmp_path)
    (tmp_path / "train-000000.tar").write_bytes(b"x" * 10)
    (tmp_path / "train-000001.tar").write_bytes(b"x" * 19)
    (tmp_path / "test-000000.tar").write_bytes(b"x" * 5)
    (tmp_path / "test-000000.idx").touch()
    no_index, cut = missing_or_changed_shards(dataset, ["train"])
    assert no_index.startswith(f"{tmp_path / 'train-000000.idx'}: missing. Make it with: megabatch data index")
    assert cut.startswith(f"{tmp_path / 'train-000001.tar'}: 19 bytes, dataset.json recorded 20: the shard was cut")
    assert missing_or_changed_shards(dataset, ["test"]) == []
    (tmp_path / "test-000000.tar").unlink()
    assert missing_or_changed_shards(dataset, ["test"])[0].startswith(
        f"{tmp_path / 'test-000000.tar'}: missing. Copy it"
    )


def test_the_fingerprint_changes_with_the_data_and_not_with_the_place(tmp_path: Path) -> None:
    dataset = described(tmp_path)
    train, test = dataset.splits
    assert fingerprint(dataset) == fingerprint(replace(dataset, folder=Path("elsewhere"), imported=True))
    changed = replace(train, shards=(replace(train.shards[0], sha256="ab"), train.shards[1]))
    swapped = replace(train, shards=train.shards[::-1])
    others = [
        replace(dataset, classes=("cat", "dog")),
        replace(dataset, splits=(changed, test)),
        replace(dataset, splits=(swapped, test)),
        replace(dataset, splits=(train,)),
        replace(dataset, splits=(replace(train, name="test"), replace(test, name="train"))),
    ]
    assert len({fingerprint(each) for each in (dataset, *others)}) == 6
