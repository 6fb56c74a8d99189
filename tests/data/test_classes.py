"""Some classes of a data set: their samples and no others, labelled in the order asked for, with names to match."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from megabatch.configs.errors import ConfigError
from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.data.arrangement import Arrangement, arrange
from megabatch.data.errors import DataError
from support.shards import dataset

ALL = ("class0", "class1", "class2", "class3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    dataset(folder, {"train": 40, "validation": 12, "test": 8}, classes=4)
    return folder


def arranged(folder: Path, *overrides: str) -> Arrangement:
    loaded = load("digits", "laptop", ["data.path=data", *overrides])
    return arrange(
        Job(recipe=loaded.recipe, cluster=loaded.cluster, working_folder=str(folder), data_fingerprint="", version="1")
    )


def test_what_is_read_are_all_samples_of_the_classes_with_labels_in_their_order(folder: Path) -> None:
    everything, chosen = arranged(folder), arranged(folder, "data.classes=[class3, class1]")
    assert chosen.num_outputs == chosen.num_classes == 2
    assert chosen.whole.classes == ("class3", "class1")
    for split, samples in (("train", 20), ("validation", 6), ("test", 4)):
        plain, reader, ids = everything.reader(split), chosen.reader(split), chosen.sample_ids(split).tolist()
        assert len(ids) == samples
        read = [(reader.read(number).key, reader.read(number).label) for number in ids]
        assert read == [
            (sample.key, {3: 0, 1: 1}[sample.label])
            for sample in map(plain.read, range(plain.samples))
            if sample.label in (1, 3)
        ]
        assert chosen.whole.split(split).label_counts == Counter(label for _, label in read)
    assert chosen.order().samples == 20


def test_the_rest_of_a_recipe_chooses_among_what_is_left(folder: Path) -> None:
    (folder / "keys.txt").write_text("\n".join(sample_keys_of(arranged(folder), range(8))))
    few = arranged(folder, "data.classes=[class0]", "data.subset=keys.txt")
    assert [few.reader("train").read(number).label for number in few.sample_ids("train").tolist()] == [0, 0]
    halves = [
        set(arranged(folder, *overrides, "data.hash_split={train: 0.5}").sample_ids("train").tolist())
        for overrides in ((), ("data.classes=[class0, class2]",))
    ]
    assert halves[1] == halves[0] & set(arranged(folder, "data.classes=[class0, class2]").sample_ids("train").tolist())
    balanced = arranged(folder, "data.classes=[class2, class0]", "data.sampling=class_balanced")
    assert balanced.order().samples == 20


def sample_keys_of(arrangement: Arrangement, each: range) -> list[str]:
    by_label: dict[int, list[str]] = {}
    for number in range(arrangement.reader("train").samples):
        sample = arrangement.reader("train").read(number)
        by_label.setdefault(sample.label, []).append(sample.key)
    return [by_label[number % 4][number // 4] for number in each]


def test_other_classes_or_another_order_are_other_data(folder: Path) -> None:
    prints = [
        arranged(folder, f"data.classes=[{names}]").fingerprint()
        for names in ("", "class0, class1", "class1, class0", ", ".join(ALL))
    ]
    assert len(set(prints)) == 4
    assert arranged(folder).fingerprint() == prints[0]


def test_an_unknown_class_is_told_with_the_nearest(folder: Path) -> None:
    with pytest.raises(DataError, match=r"data.classes: .* has no class 'clas1'. Did you mean class1\?"):
        arranged(folder, "data.classes=[clas1, class0]")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("data.classes=[a, b, a]",), "classes: a comes twice"),
        (("data.classes=[a]", "data.target=labels", "loss=focal"), "classes chooses by the class of a sample"),
        (("data.classes=[a]", "data.train_stream={urls: a.tar, samples: 3}"), "leave out classes"),
    ],
)
def test_classes_that_cannot_be_chosen_are_refused(overrides: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load("digits", "laptop", overrides)
    assert told in str(refused.value)
