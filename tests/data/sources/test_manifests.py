"""Lists of shards of timm, OpenCLIP and webdataset, the splits and the order that names give."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabatch.data.errors import DataError
from megabatch.data.sources.manifests import shards_in
from megabatch.data.sources.shards import ListedShard, file_names, in_order, listed


def parsed(manifest: str, values: Any) -> list[ListedShard]:
    return shards_in(manifest, json.dumps(values).encode())


def test_timm() -> None:
    train = {
        "name": "train",
        "filenames": ["in1k-train-0.tar", "in1k-train-1.tar"],
        "shard_lengths": [3, 2],
        "num_samples": 5,
    }
    assert parsed("/big/_info.json", {"splits": {"train": train, "val": {"filenames": ["v.tar"]}}}) == [
        ("/big/in1k-train-0.tar", "train", 3), ("/big/in1k-train-1.tar", "train", 2), ("/big/v.tar", "validation", None),
    ]  # fmt: skip


def test_openclip() -> None:
    assert parsed("s3://b/train/sizes.json", {"00000.tar": 7, "00001.tar": 8}) == [
        ("s3://b/train/00000.tar", "train", 7), ("s3://b/train/00001.tar", "train", 8),
    ]  # fmt: skip


def test_webdataset_shard_list() -> None:
    values = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": [
        {"url": "train-0.tar", "nsamples": 4}, {"url": "s3://other/val-0.tar"}]}  # fmt: skip
    assert parsed("https://h/big/shards.json?t=1", values) == [
        ("https://h/big/train-0.tar?t=1", "train", 4), ("s3://other/val-0.tar", "validation", None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "it names no shards"),
        ([], "TypeError|it names no shards|AttributeError"),
        (7, "TypeError"),
        ({"train-0.tar": "7"}, "'7' where a number of samples must be"),
        ({"train-0.tar": -1}, "-1 where a number of samples must be"),
        ({"splits": {"train": {"filenames": ["a.tar"], "shard_lengths": [1, 2]}}}, "ValueError"),
        ({"splits": {"train": {"filenames": ["a.tar"], "shard_lengths": [1], "num_samples": 2}}}, "num_samples is 2"),
        ({"splits": {"train": {}}}, "KeyError"),
        ({"shardlist": [{"nsamples": 1}]}, "KeyError"),
        ({"format": "megabatch-dataset-1", "splits": {}}, "name its folder"),
    ],
)
def test_what_is_no_list_is_told(values: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"^/big/x.json: no list of shards .*({message})"):
        parsed("/big/x.json", values)


@given(st.binary(max_size=30))
def test_whatever_the_bytes_are_it_is_a_data_error(content: bytes) -> None:
    with pytest.raises(DataError):
        shards_in("/big/x.json", content)


def test_a_number_alone_takes_the_split_from_its_folder() -> None:
    assert listed("/big/val/0003.tar").split == "validation"
    with pytest.raises(DataError, match=r"^https://h/x/0003.tar: the split cannot be told from the name"):
        listed("https://me:secret@h/x/0003.tar?sig=1")


@given(st.permutations([f"{split}-{n}" for split in ("train", "validation", "extra") for n in (1, 2, 10)]))
def test_the_order_does_not_depend_on_how_the_shards_were_named(names: list[str]) -> None:
    shards = in_order(listed(f"/big/{name}.tar") for name in names)
    assert [shard.place[5:-4] for shard in shards] == [
        f"{split}-{n}" for split in ("train", "validation", "extra") for n in (1, 2, 10)
    ]


def test_a_shard_named_twice_is_refused_and_two_of_one_name_are_kept_apart() -> None:
    a, b = listed("/a/train-0.tar"), listed("/b/train-0.tar")
    with pytest.raises(DataError, match="is named twice"):
        in_order([a, b, a])
    assert file_names(in_order([b, a])) == ["000000-train-0.tar", "000001-train-0.tar"]
