"""From a recipe and real shards to the splits, the order and the fingerprint of a training."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megabatch.configs.errors import ConfigError
from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.data.arrangement import Arrangement, arrange
from megabatch.data.dataset import Dataset, fingerprint
from megabatch.data.errors import DataError
from megabatch.data.requests import evaluation_requests, training_requests
from megabatch.data.selection import key_hash, sample_keys
from megabatch.data.steps import Steps
from support.shards import dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets of the same classes: a/data and b/data; the second has a train split only."""
    here = tmp_path_factory.mktemp("sources")
    dataset(here / "a", {"train": 50, "validation": 12, "test": 6})
    dataset(here / "b", {"train": 20})
    return here


def job(folder: Path, *overrides: str) -> Job:
    loaded = load("digits", "laptop", ["data.path=a/data", *overrides])
    return Job(
        recipe=loaded.recipe, cluster=loaded.cluster, working_folder=str(folder), data_fingerprint="", version=""
    )


def arranged(folder: Path, *overrides: str) -> Arrangement:
    return arrange(job(folder, *overrides))


def both(*weights: str) -> list[str]:
    tails = [f", weight: {weight}" for weight in weights] or ["", ""]
    return ["data.path=null", f"data.sources=[{{path: a/data{tails[0]}}}, {{path: b/data{tails[1]}}}]"]


def of_epoch(arrangement: Arrangement, epoch: int = 0) -> list[int]:
    order = arrangement.order()
    ids: list[int] = order.draws(epoch, 0, order.samples).sample_ids.tolist()
    return ids


def keys_of(arrangement: Arrangement, name: str) -> list[str]:
    reader = arrangement.reader(name)
    return [reader.read(i).key for i in arrangement.sample_ids(name).tolist()]


def source(folder: Path, name: str) -> Dataset:
    return arranged(folder, f"data.path={name}/data").datasets[0]


def test_a_plain_recipe_trains_on_every_sample_and_has_the_fingerprint_of_the_data(folder: Path) -> None:
    plain = arranged(folder)
    assert sorted(of_epoch(plain)) == list(range(50))
    assert plain.whole == plain.datasets[0]
    assert plain.fingerprint() == fingerprint(plain.datasets[0])


def test_a_subset_is_trained_on_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    keys = sample_keys(folder / "a" / "data", source(folder, "a").split("train"))
    (tmp_path / "subset.txt").write_text("\n".join(keys[3:40:2]))
    subset = arranged(folder, f"data.subset={tmp_path}/subset.txt")
    assert sorted(of_epoch(subset)) == list(range(3, 40, 2))
    assert [shard.samples for shard in subset.whole.split("train").shards] == [4, 5, 5, 5, 0]
    assert subset.whole.split("validation").samples == 12


def test_a_mask_applies_to_the_splits_that_it_names(folder: Path, tmp_path: Path) -> None:
    a = source(folder, "a")
    keys = {name: sample_keys(a.folder, a.split(name)) for name in ("train", "test")}
    excluded = {"train": keys["train"][:5], "test": keys["test"][-1:]}
    (tmp_path / "mask.json").write_text(json.dumps({"format": "megabatch-mask-1", "excluded": excluded}))
    masked = arranged(folder, f"data.mask={tmp_path}/mask.json")
    assert sorted(of_epoch(masked)) == list(range(5, 50))
    assert masked.sample_ids("test").tolist() == [0, 1, 2, 3, 4]
    assert masked.sample_ids("validation").tolist() == list(range(12))
    (tmp_path / "mask.json").write_text('{"format": "megabatch-mask-1", "excluded": {"val": []}}')
    with pytest.raises(DataError, match=r"mask\.json: excluded\.val: there is no split 'val', only train, validation"):
        arranged(folder, f"data.mask={tmp_path}/mask.json")


SPLIT = "data.hash_split={of: train, train: 0.5, validation: 0.25, test: 0.25}"


def test_a_hash_split_cuts_one_split_by_the_hash_of_the_key_alone(folder: Path) -> None:
    overrides = ["data.path=b/data", SPLIT]
    parts = arranged(folder, *overrides)
    keys = {name: keys_of(parts, name) for name in ("train", "validation", "test")}
    assert all(key_hash(key) < 1 << 63 for key in keys["train"])
    assert all(1 << 63 <= key_hash(key) < 3 << 62 for key in keys["validation"])
    assert sum(map(len, keys.values())) == 20
    assert sorted(of_epoch(parts)) == parts.sample_ids("train").tolist()
    assert {name: keys_of(arranged(folder, *overrides, "seed=9"), name) for name in keys} == keys


def test_a_sample_stays_on_its_side_when_data_are_added(folder: Path) -> None:
    alone = arranged(folder, "data.path=b/data", SPLIT)
    more = arranged(folder, *both(), "data.hash_split={train: 0.5}")
    assert set(keys_of(alone, "train")) <= set(keys_of(more, "train"))


def test_a_hash_split_that_would_hide_a_split_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"data\.hash_split\.validation makes a split 'validation' out of 'train', but"):
        arranged(folder, SPLIT)
    with pytest.raises(DataError, match=r"data\.hash_split\.of: there is no split 'all', only train, validation, test"):
        arranged(folder, "data.hash_split={of: all, train: 0.5}")
    with pytest.raises(ConfigError, match=r"the shares add up to 1\.1: write shares that add up to 1 at most"):
        arranged(folder, "data.hash_split={train: 0.7, test: 0.4}")


def test_a_subset_and_a_mask_also_hold_within_a_hash_split(folder: Path, tmp_path: Path) -> None:
    keys = sample_keys(folder / "b" / "data", source(folder, "b").split("train"))
    (tmp_path / "subset.txt").write_text("\n".join(keys[:15]))
    excluded = {"format": "megabatch-mask-1", "excluded": {"train": keys[:5]}}
    (tmp_path / "mask.json").write_text(json.dumps(excluded))
    files = [f"data.subset={tmp_path}/subset.txt", f"data.mask={tmp_path}/mask.json"]
    parts = arranged(folder, "data.path=b/data", SPLIT, *files)
    assert keys_of(parts, "train") == [key for key in keys[5:15] if key_hash(key) < 1 << 63]
    assert keys_of(parts, "test") == [key for key in keys[5:] if key_hash(key) >= 3 << 62]


def test_sources_without_weights_are_one_data_set(folder: Path) -> None:
    joined = arranged(folder, *both())
    assert sorted(of_epoch(joined)) == list(range(70))
    train = joined.whole.split("train")
    assert (train.samples, len(train.shards), sum(train.label_counts.values())) == (70, 7, 70)
    assert Path(train.shards[-1].file) == folder / "b" / "data" / "train-000001.tar"
    a, b = source(folder, "a"), source(folder, "b")
    assert keys_of(joined, "train") == sample_keys(a.folder, a.split("train")) + sample_keys(b.folder, b.split("train"))
    assert joined.whole.split("validation").samples == 12


def test_sources_with_weights_come_in_their_proportions(folder: Path) -> None:
    mixed = arranged(folder, *both("0.25", "0.75"), "data.repeats=2")
    assert mixed.order().samples == 140
    ids = [i for epoch in range(4) for i in of_epoch(mixed, epoch)]
    assert sum(i < 50 for i in ids) == len(ids) // 4
    assert set(ids[:40:2]) & set(range(50, 70))


def test_each_source_has_a_shuffle_of_its_own_that_follows_the_seed(folder: Path) -> None:
    twice = ["data.path=null", "data.sources=[{path: a/data, weight: 1}, {path: a/data, weight: 1}]"]
    ids = np.array(of_epoch(arranged(folder, *twice)))
    assert ids[ids < 50].tolist() != (ids[ids >= 50] - 50).tolist()
    assert of_epoch(arranged(folder, *twice, "seed=1")) != ids.tolist()


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_an_evaluation_has_what_is_chosen_of_a_split_and_nothing_else(folder: Path, num_ranks: int) -> None:
    chosen = arranged(folder, "data.path=b/data", SPLIT).sample_ids("test")
    requests = [r for rank in range(num_ranks) for r in evaluation_requests(len(chosen), 2, rank, num_ranks, chosen)]
    assert sorted(np.concatenate([r.sample_ids for r in requests]).tolist()) == chosen.tolist()
    assert chosen.tolist() not in ([], list(range(len(chosen))))


def test_sources_with_other_classes_are_refused(folder: Path, tmp_path: Path) -> None:
    other = dataset(tmp_path, {"train": 20}, classes=4).folder
    with pytest.raises(
        DataError, match=r"label 3 is class3, but in .*a/data it is no class: sources are mixed by label"
    ):
        arranged(folder, "data.path=null", f"data.sources=[{{path: a/data}}, {{path: {other}}}]")


def test_a_source_that_has_nothing_to_train_on_is_refused(folder: Path, tmp_path: Path) -> None:
    only_test = dataset(tmp_path, {"test": 20}).folder
    with pytest.raises(DataError, match="data: has no split 'train' to train on, as other sources have: leave it out"):
        arranged(folder, "data.path=null", f"data.sources=[{{path: {only_test}}}, {{path: a/data}}]")
    keys = sample_keys(folder / "a" / "data", source(folder, "a").split("train"))
    its = set(sample_keys(folder / "b" / "data", source(folder, "b").split("train")))
    (tmp_path / "subset.txt").write_text("\n".join(key for key in keys if key not in its))
    with pytest.raises(DataError, match=r"b/data: no sample of it is left to train on"):
        arranged(folder, *both("1", "2"), f"data.subset={tmp_path}/subset.txt").order()


def labels_of(arrangement: Arrangement, epoch: int) -> Counter[int]:
    reader = arrangement.reader("train")
    return Counter(reader.read(i).label for i in of_epoch(arrangement, epoch))


def test_classes_are_balanced_in_what_is_selected(folder: Path, tmp_path: Path) -> None:
    plain = arranged(folder)
    skewed = [key for key in keys_of(plain, "train") if not key.startswith("class2") or key.endswith("2")]
    (tmp_path / "subset.txt").write_text("\n".join(skewed))
    balanced = arranged(folder, "data.sampling=class_balanced", f"data.subset={tmp_path}/subset.txt")
    counts = [labels_of(balanced, epoch) for epoch in range(3)]
    assert all(max(c.values()) - min(c.values()) <= 1 and sum(c.values()) == len(skewed) for c in counts)


@pytest.mark.parametrize(("content", "expected"), [
    ({"classes": {"class0": 0, "class1": 1, "class2": 1.0}}, [0, 1, 1]),
    ({"classes": {"class0": 1, "class1": 0, "class2": 0}}, [1, 0, 0]),
])  # fmt: skip
def test_weights_of_classes_decide_what_is_drawn(
    folder: Path, tmp_path: Path, content: dict[str, Any], expected: list[int]
) -> None:
    (tmp_path / "w.json").write_text(json.dumps(content))
    weighted = arranged(folder, f"data.sampling={{name: weighted, file: {tmp_path}/w.json}}")
    assert [int(labels_of(weighted, 0)[label] > 0) for label in range(3)] == expected


def test_weights_of_samples_hold_over_all_sources(folder: Path, tmp_path: Path) -> None:
    keys = [key for name in "ab" for key in sample_keys(folder / name / "data", source(folder, name).split("train"))]
    (tmp_path / "w.json").write_text(json.dumps({"samples": {key: int(key == keys[3]) for key in keys}}))
    weighted = arranged(folder, *both(), f"data.sampling={{name: weighted, file: {tmp_path}/w.json}}")
    assert {weighted.reader("train").read(i).key for i in of_epoch(weighted)} == {keys[3]}
    order = weighted.order()
    assert sorted(order.draws(0, 0, 70).occurrences.tolist())[-1] >= 34  # two sources may have the key


def test_the_fingerprint_covers_what_is_chosen_and_not_where_the_files_lie(folder: Path, tmp_path: Path) -> None:
    keys = sample_keys(folder / "a" / "data", source(folder, "a").split("train"))
    jobs = []
    for name, text in (("one", keys[:9]), ("two", keys[:9]), ("three", keys[:8])):
        (tmp_path / name).write_text("\n".join(text))
        of_name = job(folder, f"data.subset={tmp_path}/{name}")
        jobs.append(of_name.model_copy(update={"data_fingerprint": arrange(of_name).fingerprint()}).fingerprint())
    assert jobs[0] == jobs[1] != jobs[2]
    assert arranged(folder, *both()).fingerprint() != arranged(folder).fingerprint()
    (tmp_path / "w.json").write_text('{"classes": {"class0": 1, "class1": 1, "class2": 1}}')
    by_weight = arranged(folder, f"data.sampling={{name: weighted, file: {tmp_path}/w.json}}")
    before = by_weight.fingerprint()
    (tmp_path / "w.json").write_text('{"classes": {"class0": 1, "class1": 1, "class2": 2}}')
    assert by_weight.fingerprint() != before


def test_the_loader_reads_what_the_order_says(folder: Path) -> None:
    from megabatch.trainer.loaders import split_loader

    with_all = job(folder, *both("0.5", "0.5"), "data.repeats=2", "data.sampling=class_balanced")
    mixed = arrange(with_all)
    order = mixed.order()
    reader = mixed.reader("train")
    loader = split_loader(with_all, mixed, reader, with_all.recipe.data.train_transforms, threads=1)
    requests = training_requests(Steps(order.samples, 1, 32, 8, "short"), order, 0, 1, 0)
    labels = np.concatenate([batch.labels_N.numpy() for batch in loader.load(requests)])
    assert labels.tolist() == [reader.read(i).label for i in of_epoch(mixed)]


def test_the_launcher_plans_with_what_is_chosen_and_finds_a_missing_shard_of_any_source(
    folder: Path, tmp_path: Path
) -> None:
    from megabatch.launcher.prepare import check

    mixed = [*both("0.5", "0.5"), "data.sampling=class_balanced", "data.repeats=2"]
    prepared = check(job(folder, *mixed))
    assert prepared.plan.drawn == (
        "sources in the proportions 0.5 : 0.5; every class equally often; each sample 2 times, side by side; "
        "140 draws an epoch"
    )
    assert prepared.plan.shards_per_rank is None
    assert [(split.use, split.samples) for split in prepared.plan.splits] == [
        ("train", 70),
        ("validation", 12),
        ("test", 6),
    ]
    shard = shutil.copytree(folder, tmp_path / "copy") / "b" / "data" / "train-000001.tar"
    shard.unlink()
    with pytest.raises(ConfigError) as error:
        check(job(tmp_path / "copy", *mixed))
    assert [problem.message for problem in error.value.problems] == [
        f"{shard}: missing. Copy it back, or make dataset.json anew: megabatch data index b/data"
    ]
