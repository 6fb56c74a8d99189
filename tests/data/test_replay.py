"""Replay: the buffer is balanced and always the same, its share of every batch is exact, and classes go by their names."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabatch.configs.errors import ConfigError
from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.data.arrangement import Arrangement, arrange
from megabatch.data.dataset import write_dataset
from megabatch.data.errors import DataError
from megabatch.data.importer import ImportOptions, import_images
from megabatch.data.replay import same_of_each_class
from megabatch.data.requests import training_requests
from megabatch.data.selection import key_hash
from megabatch.data.steps import steps_of
from support.shards import dataset, image_folder

OLD, NEW = "class0, class3", "class1, class2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replay")
    dataset(folder, {"train": 80, "validation": 12, "test": 8}, classes=4)
    return folder


def arranged(folder: Path, old: str = "train_samples: 8", new: str = "", *overrides: str) -> Arrangement:
    sources = f"data.sources=[{{path: data, classes: [{OLD}], {old}}}, {{path: data, classes: [{NEW}]{new}}}]"
    loaded = load("digits", "laptop", ["data.path=null", sources, *overrides])
    return arrange(
        Job(recipe=loaded.recipe, cluster=loaded.cluster, working_folder=str(folder), data_fingerprint="", version="1")
    )


@given(
    st.lists(st.integers(0, 3), min_size=4, max_size=60).filter(lambda labels: len(set(labels)) == 4),
    st.integers(0, 60),
    st.randoms(),
)
def test_a_buffer_has_as_many_of_each_class_whatever_the_order_and_a_smaller_one_is_a_part_of_it(
    labels: list[int], most: int, random: object
) -> None:
    classes = {label: f"class{label}" for label in range(4)}
    hashes = [key_hash(str(number)) for number in range(len(labels))]
    each = most // 4
    arguments = np.array(labels), hashes, classes, most, "data"
    if (most and not each) or min(Counter(labels).values()) < each:
        with pytest.raises(DataError, match=r"data: train_samples: .* write at (most|least)"):
            same_of_each_class(*arguments)
        return
    chosen = same_of_each_class(*arguments).tolist()
    assert Counter(labels[number] for number in chosen) == {label: each for label in range(4) if each}
    order = list(range(len(labels)))
    random.shuffle(order)  # type: ignore[attr-defined]
    other = same_of_each_class(np.array(labels)[order], [hashes[n] for n in order], classes, most, "data")
    assert sorted(order[number] for number in other.tolist()) == chosen
    smaller = same_of_each_class(np.array(labels), hashes, classes, 4 * (each // 2), "data").tolist()
    assert set(smaller) <= set(chosen)


def test_a_source_has_its_classes_alone_and_all_of_them_are_evaluated(folder: Path) -> None:
    found = arranged(folder, "train_samples: 8", "", "data.classes=[class0, class3, class1, class2]")
    assert found.whole.classes == ("class0", "class3", "class1", "class2")
    reader = found.reader("train")
    labels = [[reader.read(n).label for n in ids.tolist()] for ids in found.sample_ids_by_source("train")]
    assert Counter(labels[0]) == {0: 4, 1: 4}
    assert Counter(labels[1]) == {2: 20, 3: 20}
    assert found.whole.split("train").label_counts == {0: 4, 1: 4, 2: 20, 3: 20}
    for split, each in (("validation", 3), ("test", 2)):
        reader = found.reader(split)
        labels = [[reader.read(n).label for n in ids.tolist()] for ids in found.sample_ids_by_source(split)]
        assert [Counter(of_source) for of_source in labels] == [{0: each, 1: each}, {2: each, 3: each}]


def test_the_seed_leaves_the_buffer_as_it_is_and_changes_the_order(folder: Path) -> None:
    one, other = (arranged(folder, "train_samples: 8, weight: 1", ", weight: 1", f"seed={seed}") for seed in (0, 1))
    assert one.sample_ids_by_source("train")[0].tolist() == other.sample_ids_by_source("train")[0].tolist()
    assert one.fingerprint() == other.fingerprint()
    assert one.order().draws(0, 0, 48).sample_ids.tolist() != other.order().draws(0, 0, 48).sample_ids.tolist()
    assert arranged(folder, "train_samples: 6").fingerprint() != arranged(folder).fingerprint()


@pytest.mark.parametrize(("weights", "share"), [((1, 1), 0.5), ((1, 3), 0.25), ((2, 3), 0.4)])
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
def test_every_global_batch_has_its_share_of_old_samples_on_any_number_of_ranks(
    folder: Path, weights: tuple[int, int], share: float, num_ranks: int
) -> None:
    settings = (f"train_samples: 8, weight: {weights[0]}", f", weight: {weights[1]}")
    found = arranged(folder, *settings, "batch.global_batch=20", "batch.micro_batch=3", "epochs=4", "schedule.warmup=0")
    order = found.order()
    steps = steps_of(found.recipe, order.samples)
    old = set(found.sample_ids_by_source("train")[0].tolist())
    by_step: dict[int, list[int]] = {}
    for rank in range(num_ranks):
        for request in training_requests(steps, order, rank, num_ranks, 0):
            by_step.setdefault(request.step, []).extend(request.sample_ids.tolist())
    assert len(by_step) == steps.total == 12
    for step, ids in by_step.items():
        drawn = sum(number in old for number in ids)
        assert len(ids) == (20 if step % 3 < 2 else 8)
        if len(ids) == 20:
            assert drawn == 20 * share
        assert abs(drawn - len(ids) * share) < 1
    counts = Counter(number for ids in by_step.values() for number in ids)
    assert {counts[number] for number in old} <= {int(4 * 48 * share / 8), int(4 * 48 * share / 8) + 1}


def test_a_source_without_training_samples_is_only_evaluated_on(folder: Path) -> None:
    found = arranged(folder, "train_samples: 0")
    assert found.order().samples == 40
    old = set(found.sample_ids_by_source("test")[0].tolist())
    assert len(old) == 4
    assert found.sample_ids_by_source("train")[0].tolist() == []
    drawn = found.order().draws(0, 0, 40).sample_ids.tolist()
    assert sorted(drawn) == found.sample_ids_by_source("train")[1].tolist()


def test_classes_of_other_data_sets_are_found_by_their_names(folder: Path, tmp_path: Path) -> None:
    images = image_folder(tmp_path / "images", {"train": 30, "validation": 6, "test": 6}, classes=3)
    options = ImportOptions(samples_per_shard=10)
    other = import_images(images, tmp_path / "data", options, lambda done, total: None).dataset
    write_dataset(type(other)(other.folder, ("new", "class2", "class0"), other.splits, other.imported))
    sources = f"data.sources=[{{path: data}}, {{path: {tmp_path / 'data'}, classes: [class0, new]}}]"
    names = "data.classes=[class0, class1, class2, class3, new]"
    loaded = load("digits", "laptop", ["data.path=null", sources, names])
    found = arrange(
        Job(recipe=loaded.recipe, cluster=loaded.cluster, working_folder=str(folder), data_fingerprint="", version="1")
    )
    reader = found.reader("train")
    labels = [[reader.read(n).label for n in ids.tolist()] for ids in found.sample_ids_by_source("train")]
    assert [Counter(of_source) for of_source in labels] == [{0: 20, 1: 20, 2: 20, 3: 20}, {0: 10, 4: 10}]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("train_samples: 0, weight: 1", ", weight: 1"), "drawn from never: leave out its weight"),
        (("train_samples: 8", ", weight: 1"), "some have a weight and some have none"),
        (("train_samples: 8", "", "data.classes=[class0, class1, class2]"), "class3 is not among data.classes"),
        (("train_samples: 8", "", "data.target=labels", "loss=focal"), "leave it out with another target"),
    ],
)
def test_sources_that_contradict_themselves_are_refused(folder: Path, settings: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        arranged(folder, *settings)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("train_samples: 100",), "is 50 of each of 2 classes, and there are 20 training samples of class0: write at most 40"),
        (("train_samples: 1",), "less than one of each of 2 classes: write at least 2, or 0 for none"),
    ],
)  # fmt: skip
def test_a_buffer_that_the_data_cannot_fill_is_told(folder: Path, settings: tuple[str, ...], told: str) -> None:
    with pytest.raises(DataError) as refused:
        arranged(folder, *settings)
    assert told in str(refused.value)


def test_a_class_that_a_source_does_not_have_is_told_with_the_nearest(folder: Path) -> None:
    sources = "data.sources=[{path: data}, {path: data, classes: [clas1]}]"
    loaded = load("digits", "laptop", ["data.path=null", sources])
    job = Job(
        recipe=loaded.recipe, cluster=loaded.cluster, working_folder=str(folder), data_fingerprint="", version="1"
    )
    with pytest.raises(DataError, match=r"data.sources.1.classes: data has no class 'clas1'. Did you mean class1\?"):
        arrange(job)
