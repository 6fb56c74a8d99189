"""Splits by class: the shares are met for each class and in total, and depend on names only."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabatch.data.errors import DataError
from megabatch.data.image_sources import SourceImage
from megabatch.data.stratify import apportion, stratify

SHARES = st.sampled_from(
    [
        {"train": 0.9, "validation": 0.1},
        {"train": 0.8, "validation": 0.1, "test": 0.1},
        {"a": 0.5, "b": 0.5},
        {"a": 0.29, "b": 0.71},
        {"a": 0.333, "b": 0.333, "c": 0.334},
        {"train": 1.0},
    ]
)


def images(counts: dict[str, int], split: str = "train") -> list[SourceImage]:
    return [SourceImage(split, c, f"{n:03d}.jpg", f"{split}/{c}/{n:03d}.jpg") for c in counts for n in range(counts[c])]


@given(st.lists(st.integers(10, 400), min_size=1, max_size=60), SHARES)
def test_every_class_and_the_total_meet_the_shares(sizes: list[int], shares: dict[str, float]) -> None:
    counts = apportion({str(n): size for n, size in enumerate(sizes)}, shares)
    for size, of_class in zip(sizes, counts.values(), strict=True):
        assert sum(of_class.values()) == size
        assert all(abs(of_class[name] - share * size) < 1 for name, share in shares.items())
    for name, share in shares.items():
        total = sum(of_class[name] for of_class in counts.values())
        assert abs(total - share * sum(sizes)) < (1 if len(shares) < 3 else 2)


@given(st.lists(st.integers(3, 12), min_size=1, max_size=40))
def test_small_classes_appear_in_every_split(sizes: list[int]) -> None:
    counts = apportion({str(n): size for n, size in enumerate(sizes)}, {"train": 0.8, "validation": 0.1, "test": 0.1})
    for size, of_class in zip(sizes, counts.values(), strict=True):
        assert sum(of_class.values()) == size
        assert min(of_class.values()) >= 1


def test_whole_shares_are_exact() -> None:
    assert apportion({"cat": 5000}, {"train": 0.9, "validation": 0.1}) == {"cat": {"train": 4500, "validation": 500}}
    assert apportion({"cat": 100}, {"a": 0.29, "b": 0.71}) == {"cat": {"a": 29, "b": 71}}


def test_the_split_depends_on_seed_and_names_not_on_the_order() -> None:
    listed = images({"cat": 30, "dog": 20})
    shares = {"train": 0.7, "validation": 0.3}
    first = stratify(listed, shares, 0, "x")
    random.Random(1).shuffle(listed)
    assert set(stratify(listed, shares, 0, "x")) == set(first)
    assert set(stratify(listed, shares, 1, "x")) != set(first)
    assert {image.path for image in first} == {image.path for image in listed}
    in_validation = [image for image in first if image.split == "validation"]
    assert [sum(image.class_name == name for image in in_validation) for name in ("cat", "dog")] == [9, 6]


def test_other_splits_of_the_source_stay_as_they_are() -> None:
    kept = images({"cat": 4}, "test")
    result = stratify(images({"cat": 10}) + kept, {"train": 0.9, "validation": 0.1}, 0, "x")
    assert [image for image in result if image.split == "test"] == kept


@pytest.mark.parametrize(
    ("counts", "shares", "message"),
    [
        ({"cat": 1, "dog": 1, "cow": 9}, {"train": 0.9, "validation": 0.1}, "nothing to stratify: 2 classes have fewer .*cat, dog"),
        ({"cat": 9}, {"train": 0.9, "validation": 0.2}, r"add up to 1, not train=0\.9, validation=0\.2 \(1\.1\)"),
        ({"cat": 9}, {"train": 1.5, "validation": -0.5}, "must be positive"),
        ({"cat": 9}, {"train": float("nan"), "validation": 0.5}, "must be positive"),
        ({"cat": 9}, {"train": 0.5, "test": 0.5}, "has its own test: leave it out"),
    ],
)  # fmt: skip
def test_shares_that_cannot_be_met_are_refused(counts: dict[str, int], shares: dict[str, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        stratify(images(counts) + images({"cat": 2}, "test"), shares, 0, "photos.zip")


def test_a_source_without_train_cannot_be_split() -> None:
    with pytest.raises(DataError, match="the source has no train/"):
        stratify(images({"cat": 5}, "test"), {"train": 1.0}, 0, "x")
