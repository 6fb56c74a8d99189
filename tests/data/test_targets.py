"""Targets that are no class: what is read of a sample, what is told of bad ones, and where such data are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from typer.testing import CliRunner

from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.configs.targets import Target, num_outputs
from megabatch.data.arrangement import Arrangement, arrange
from megabatch.data.augment.chain import decoding_chain
from megabatch.data.clean.shards import find_shards
from megabatch.data.dataset import Dataset, read_dataset
from megabatch.data.errors import DataError, SampleError
from megabatch.data.indexing import index_shards, verify
from megabatch.data.loader import Loader, MicroBatch
from megabatch.data.read import NO_LABEL, SplitReader
from megabatch.data.repack import RepackOptions, repack
from megabatch.data.requests import evaluation_requests
from megabatch.data.stats import split_stats
from megabatch.data.stream import StreamReader
from megabatch.data.targets import TargetReader, target_reader
from megabatch.launcher.cli import app
from support.targets import Drawn, numbers_and_labels, target_dataset, write_shards

CLASSES = ("cat", "dog", "tree")
AGE = {"name": "numbers", "keys": ["age"]}


def reader_of(target: object) -> TargetReader:
    found = target_reader(checked(target), CLASSES)
    assert found is not None
    return found


def checked(target: object) -> Target:
    if isinstance(target, dict):  # as configs/load.py hands lists over
        target = {key: tuple(value) if isinstance(value, list) else value for key, value in target.items()}
    found: Target = TypeAdapter(Target).validate_python(target)
    return found


@settings(max_examples=100)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=4))
def test_numbers_come_back_from_json_and_text(values: list[float]) -> None:
    keys = [f"k{number}" for number in range(len(values))]
    content = json.dumps(dict(zip(keys, values, strict=True))).encode()
    of_json = reader_of({"name": "numbers", "keys": keys})
    assert (of_json.extension, of_json.outputs) == ("json", len(values))
    assert of_json.parse(content).tolist() == values
    of_text = reader_of({"name": "numbers", "member": "txt", "count": len(values)})
    assert of_text.parse(" ".join(map(repr, values)).encode() + b"\n").tolist() == values


def test_mean_and_std_standardize_each_number() -> None:
    target = {"name": "numbers", "keys": ["a", "b"], "mean": [40.0, 0.0], "std": [10.0, 2.0]}
    assert reader_of(target).parse(b'{"b": 3, "a": 25}').tolist() == [-1.5, 1.5]


def test_labels_are_numbers_or_names_in_any_order_and_may_be_none() -> None:
    parse = reader_of({"name": "labels", "key": "seen"}).parse
    assert parse(b'{"seen": ["tree", 0]}').tolist() == [1, 0, 1]
    assert parse(b'{"seen": [1, "dog", 1]}').tolist() == [0, 1, 0]
    assert parse(b'{"seen": []}').tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("target", "content", "reason"),
    [
        (AGE, b"", r"b'' is no JSON"),
        (AGE, b"{", r"is no JSON"),
        (AGE, b"[" * 100_000, r"is no JSON"),
        (AGE, b"\xff\xfe", r"is no JSON"),
        (AGE, b"[1]", r"has no 'age'"),
        (AGE, b'{"Age": 1}', r"has no 'age'"),
        (AGE, b'{"age": "1"}', r"age is '1', no number"),
        (AGE, b'{"age": true}', r"age is True, no number"),
        (AGE, b'{"age": null}', r"age is None, no number"),
        (AGE, b'{"age": NaN}', r"is no JSON"),
        (AGE, b'{"age": -Infinity}', r"is no JSON"),
        (AGE, b'{"age": 1e999}', r"too large for float32"),
        (AGE, b'{"age": 1e39}', r"too large for float32"),
        (AGE, b'{"age": 1' + b"0" * 400 + b"}", r"too large for float32"),
        ({"name": "numbers", "member": "num", "count": 1}, b"nan", r"b'nan' is not one number"),
        ({"name": "numbers", "member": "num", "count": 1}, b"1_0", r"is not one number"),
        ({"name": "numbers", "member": "num", "count": 1}, b"1 2", r"is not one number"),
        ({"name": "numbers", "member": "num", "count": 2}, b"1,2", r"is not 2 numbers with white space"),
        ({"name": "labels"}, b'{"labels": 1}', r"labels is 1, no list of classes"),
        ({"name": "labels"}, b'{"labels": [3]}', r"label 3 is outside the 3 classes"),
        ({"name": "labels"}, b'{"labels": [-1]}', r"label -1 is outside"),
        ({"name": "labels"}, b'{"labels": [true]}', r"label True is outside"),
        ({"name": "labels"}, b'{"labels": ["bird"]}', r"label 'bird' is outside"),
    ],
)
def test_what_is_no_target_is_told_with_the_reason(target: object, content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        reader_of(target).parse(content)


@settings(max_examples=150)
@given(
    st.binary(max_size=60), st.sampled_from([AGE, {"name": "labels"}, {"name": "numbers", "member": "txt", "count": 2}])
)
def test_whatever_a_member_holds_it_is_finite_numbers_or_a_reason(content: bytes, target: object) -> None:
    reader = reader_of(target)
    try:
        row = reader.parse(content)
    except ValueError:
        return
    assert row.shape == (reader.outputs,)
    assert np.isfinite(row).all()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"name": "numbers"}, "named by `keys: "),
        ({"name": "numbers", "keys": ["a"], "count": 1}, "named by `keys: "),
        ({"name": "numbers", "member": "txt"}, "write how many there are, `count: 1`"),
        ({"name": "numbers", "member": "txt", "keys": ["a"], "count": 1}, "have no names"),
        ({"name": "numbers", "keys": ["a", "a"]}, "one of them comes twice"),
        ({"name": "numbers", "keys": ["a"], "mean": [1.0]}, "both mean and std"),
        ({"name": "numbers", "keys": ["a"], "mean": [1.0], "std": [1.0, 2.0]}, "std has 2 numbers for 1 targets"),
        ({"name": "numbers", "keys": ["a"], "mean": [1.0], "std": [0.0]}, "greater than 0"),
        ({"name": "numbers", "member": "cls", "count": 1}, "'json', 'txt' or 'num'"),
        ({"name": "class", "key": "x"}, "Extra inputs"),
    ],
)
def test_a_target_that_says_too_much_or_too_little_is_refused(target: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        checked(target)


def test_a_name_alone_is_a_target() -> None:
    assert [num_outputs(checked(name), 5) for name in ("class", "labels")] == [5, 5]
    assert num_outputs(checked({"name": "numbers", "member": "num", "count": 3}), 5) == 3


COUNTS = {"train": 25, "validation": 7}
CORNERS = {"name": "labels", "key": "corners"}
NUMBERS = {"name": "numbers", "keys": ["brightness", "redness"]}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return target_dataset(tmp_path_factory.mktemp("targets"), COUNTS)


def test_shards_without_a_class_are_indexed_described_and_verified(shards: Dataset) -> None:
    assert read_dataset(shards.folder) == shards
    assert [(split.samples, split.label_counts) for split in shards.splits] == [(25, {}), (7, {})]
    assert shards.classes == ("upper_left", "upper_right", "lower_left", "lower_right")
    assert verify(shards, lambda done, total: None, decode=True) == []
    assert SplitReader(shards.folder, shards.split("train")).read(3).label == NO_LABEL


def batches(dataset: Dataset, target: object, micro_batch: int = 10, skip: bool = False) -> list[MicroBatch]:
    reader = target_reader(checked(target), dataset.classes)
    assert reader is not None
    split = dataset.split("train")
    source = SplitReader(dataset.folder, split, reader)
    transform = decoding_chain((), 8, 10_000)
    loader = Loader(source, transform, 8, 0, seed=0, threads=2, skip_errors=skip, outputs=reader.outputs)
    return list(loader.load(evaluation_requests(split.samples, micro_batch, 0, 1)))


def test_the_loader_gives_rows_of_numbers_of_whichever_member(shards: Dataset) -> None:
    of_json = np.concatenate([batch.labels_N.numpy() for batch in batches(shards, NUMBERS)])
    of_text = [b.labels_N.numpy() for b in batches(shards, {"name": "numbers", "member": "txt", "count": 2}, 4)]
    assert (of_json.shape, of_json.dtype) == ((25, 2), np.float32)
    assert np.array_equal(of_json, np.concatenate(of_text))
    images = np.concatenate([batch.images_NHWC.numpy() for batch in batches(shards, NUMBERS)])
    assert of_json[:, 0] == pytest.approx(images.mean(axis=(1, 2, 3)) / 255)
    assert of_json[:, 1] == pytest.approx(images[..., 0].mean(axis=(1, 2)) / 255)


def test_the_loader_gives_rows_with_a_1_for_each_class(shards: Dataset) -> None:
    rows = np.concatenate([batch.labels_N.numpy() for batch in batches(shards, CORNERS)])
    assert (rows.shape, rows.dtype, set(np.unique(rows))) == ((25, 4), np.float32, {0.0, 1.0})
    assert len({tuple(row) for row in rows.tolist()}) > 4


def broken(number: int, members: Callable[[dict[str, bytes]], None]) -> Callable[[Drawn, int], dict[str, bytes]]:
    def of_sample(drawn: Drawn, at: int) -> dict[str, bytes]:
        found = numbers_and_labels(drawn, at)
        if at == number:
            members(found)
        return found

    return of_sample


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m.update(json=b'{"brightness": "high", "redness": 1}'),
            r"00013\.json: brightness is 'high', no number",
        ),
        (lambda m: m.pop("json"), r"00013\.json: is missing or empty: data\.target is read from it"),
        (lambda m: m.update(json=b""), r"00013\.json: is missing or empty"),
    ],
)
def test_a_bad_target_is_told_with_its_place_and_can_be_skipped(
    tmp_path: Path, change: Callable[[dict[str, bytes]], None], message: str
) -> None:
    dataset = target_dataset(tmp_path, {"train": 25}, broken(13, change))
    with pytest.raises(SampleError, match=r"train-000001\.tar: byte \d+: " + message):
        batches(dataset, NUMBERS)
    found = batches(dataset, NUMBERS, skip=True)
    assert [batch.weights_N.tolist() for batch in found] == [[1.0] * 10, [1.0] * 3 + [0.0] + [1.0] * 6, [1.0] * 5]
    (skipped,) = (sample for batch in found for sample in batch.skipped)
    assert (skipped.reason, skipped.key, skipped.sample_id) == ("label", "00013", 13)
    assert found[1].labels_N[3].tolist() == found[1].labels_N[0].tolist()  # of another sample: mixup would spread it


def test_a_split_in_which_only_some_shards_have_a_class_is_refused(tmp_path: Path) -> None:
    def members(drawn: Drawn, number: int) -> dict[str, bytes]:
        return {"cls": b"1"} if number < 10 else {"json": b"{}"}

    folder = write_shards(tmp_path, {"train": 20}, members)
    with pytest.raises(DataError, match=r"train-000001\.tar: no sample has a \.cls, but those in other shards"):
        index_shards(folder, None, lambda done, total: None)


def test_a_shard_in_which_only_some_samples_have_a_class_is_refused(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, {"train": 20}, lambda drawn, n: {"cls": b"1"} if n % 2 else {"json": b"{}"})
    with pytest.raises(
        DataError, match=r"sample 000[01]0 has .* instead of a \.cls: nothing, as other samples have one"
    ):
        index_shards(folder, None, lambda done, total: None)


def arranged(dataset: Dataset, *overrides: str) -> Arrangement:
    loaded = load("digits", "laptop", [f"data.path={dataset.folder}", "data.test_split=null", *overrides])
    job = Job(recipe=loaded.recipe, cluster=loaded.cluster, working_folder="/", data_fingerprint="", version="")
    return arrange(job)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), r"split 'train' have no \.cls, so there is no class"),
        (
            ("data.target=labels", "data.sampling=class_balanced"),
            r"data\.sampling is class_balanced, but the samples of",
        ),
    ],
)
def test_what_needs_a_class_is_refused_without_one(shards: Dataset, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        arranged(shards, *overrides).order()


def test_weights_of_classes_are_refused_and_weights_of_samples_work(shards: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "weights.json"
    weighted = ("data.target=labels", f"data.sampling={{name: weighted, file: {file}}}")
    file.write_text(json.dumps({"classes": {"upper_left": 1}}))
    with pytest.raises(DataError, match=r"weights\.json has weights of classes, but the samples of"):
        arranged(shards, *weighted).order()
    file.write_text(json.dumps({"samples": {f"{number:05d}": float(number % 2) for number in range(25)}}))
    drawn = arranged(shards, *weighted).order().draws(0, 0, 25).sample_ids
    assert set((drawn % 2).tolist()) == {1}


def test_labels_without_names_of_classes_are_refused(shards: Dataset, tmp_path: Path) -> None:
    folder = write_shards(tmp_path, {"train": 5, "validation": 5})
    (folder / "classes.txt").unlink()
    dataset = index_shards(folder, None, lambda done, total: None)
    with pytest.raises(DataError, match=r"no classes are listed, .* write every class into classes\.txt"):
        arranged(dataset, "data.target=labels")
    numbers = "data.target={name: numbers, keys: [redness]}"
    assert arranged(dataset, numbers).num_outputs == 1
    both = (f"data.sources=[{{path: {shards.folder}}}, {{path: {folder}}}]", "data.path=null")
    assert arranged(dataset, *both, numbers).order().samples == 30  # whatever their classes are called
    assert (
        CliRunner().invoke(app, ["data", "info", str(folder)]).output.endswith("no classes: the samples have no .cls\n")
    )


def test_shards_with_a_class_may_have_another_target_too(tmp_path: Path) -> None:
    dataset = target_dataset(tmp_path, {"train": 10}, lambda drawn, n: {"cls": b"2", **numbers_and_labels(drawn, n)})
    assert dataset.split("train").label_counts == {2: 10}
    (batch,) = batches(dataset, NUMBERS)
    assert batch.labels_N.shape == (10, 2)


def test_repacked_shards_have_the_same_targets(shards: Dataset, tmp_path: Path) -> None:
    copy = repack(shards, tmp_path / "small", RepackOptions(threads=2), lambda done, total: None)
    for target in (NUMBERS, {"name": "numbers", "member": "txt", "count": 2}, CORNERS):
        for ours, theirs in zip(batches(copy, target), batches(shards, target), strict=True):
            assert ours.labels_N.tolist() == theirs.labels_N.tolist()


def test_statistics_leave_classes_out_and_cleaning_is_refused(shards: Dataset) -> None:
    found = split_stats(shards, shards.split("validation"), 1, lambda done, total: None).to_json()
    assert (found["samples"], found["width"]["max"], "classes" in found) == (7, 8, False)
    with pytest.raises(DataError, match=r"every one would be called unlabelled"):
        find_shards(shards.folder)


def test_a_stream_has_the_same_targets_and_tells_of_bad_ones(shards: Dataset, tmp_path: Path) -> None:
    target = target_reader(checked(CORNERS), shards.classes)
    split = shards.split("train")
    indexed = SplitReader(shards.folder, split, target)
    expected = {s.key: s.values.tolist() for s in map(indexed.read, range(25)) if s.values is not None}
    urls = [str(shards.folder / shard.file) for shard in split.shards]
    stream = StreamReader(urls, 0, 0, 1, 10, target)
    assert {s.key: s.values.tolist() for s in map(stream.read, range(25)) if s.values is not None} == expected
    folder = write_shards(tmp_path, {"train": 5}, lambda drawn, number: {"json": b'{"corners": ["centre"]}'})
    bad = StreamReader([str(folder / "train-000000.tar")], 0, 0, 1, 10, target)
    with pytest.raises(DataError, match=r"train-000000\.tar: 0000\d\.json: label 'centre' is outside the 4 classes"):
        bad.read(0)
