"""Selections by list, mask and hash: exact, stable, and every mistake in a file told with its place."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabatch.data.errors import DataError
from megabatch.data.selection import (
    hash_bounds,
    hashed_into,
    key_hash,
    listed,
    not_masked,
    read_mask,
    sample_keys,
)
from support.shards import dataset

KEYS = ["cat/1", "cat/2", "dog/1", "dog/1"]
tenths = st.integers(0, 10)


def written(folder: Path, text: str, name: str = "keys.txt") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_keys_come_in_the_order_of_the_sample_ids(tmp_path: Path) -> None:
    described = dataset(tmp_path, {"train": 25})
    from megabatch.data.read import SplitReader

    reader = SplitReader(described.folder, described.split("train"))
    assert sample_keys(described.folder, described.split("train")) == [reader.read(i).key for i in range(25)]


def test_a_listed_key_stands_for_every_sample_that_has_it(tmp_path: Path) -> None:
    file = written(tmp_path, "dog/1\n\ncat/2\r\n")
    assert listed(KEYS, file, "train").tolist() == [False, True, True, True]


def test_a_list_of_all_keys_and_an_empty_one(tmp_path: Path) -> None:
    assert listed(KEYS, written(tmp_path, "\n".join(KEYS[:3])), "train").all()
    assert not listed(KEYS, written(tmp_path, ""), "train").any()


def test_unknown_and_repeated_keys_are_told_with_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"keys\.txt:3: key 'cat/1' stands in line 1 already: remove one of them"):
        listed(KEYS, written(tmp_path, "cat/1\ncat/2\ncat/1\n"), "train")
    unknown = written(tmp_path, "cat/1\n" + "".join(f"cow/{n}\n" for n in range(7)))
    with pytest.raises(DataError) as error:
        listed(KEYS, unknown, "train")
    lines = str(error.value).splitlines()
    assert lines[0] == f"{unknown}:2: no sample of split 'train' has the key 'cow/0'"
    assert lines[4:] == [
        f"{unknown}:6: no sample of split 'train' has the key 'cow/4' (and 2 more)",
        "Remove the line, or correct the key",
    ]


def test_a_list_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.txt: cannot be read"):
        listed(KEYS, tmp_path / "no.txt", "train")


def test_a_mask_leaves_out_what_it_names(tmp_path: Path) -> None:
    file = written(tmp_path, '{"format": "megabatch-mask-1", "excluded": {"train": ["dog/1"], "test": []}}')
    excluded = read_mask(file)
    assert excluded == {"train": ["dog/1"], "test": []}
    assert not_masked(KEYS, excluded["train"], file, "train").tolist() == [True, True, False, False]
    assert not_masked(KEYS, excluded["test"], file, "test").all()


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"format": "other", "excluded": {}}', '{"format": "megabatch-mask-1", "excluded": {"train": "a"}}',
     '{"format": "megabatch-mask-1", "excluded": {"train": [1]}}', '{"format": "megabatch-mask-1", "excluded": []}'],
)  # fmt: skip
def test_what_is_no_mask_is_told_with_what_to_write(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r'not a mask: write \{"format": "megabatch-mask-1", "excluded"'):
        read_mask(written(tmp_path, text))


def test_a_mask_of_other_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"m: excluded\.train: no sample of the split has the key 'x': the mask belongs"
    ):
        not_masked(KEYS, ["cat/1", "x"], Path("m"), "train")


def shares(train: int, validation: int, test: int) -> dict[str, Fraction]:
    return {"train": Fraction(train, 10), "validation": Fraction(validation, 10), "test": Fraction(test, 10)}


@given(st.tuples(tenths, tenths, tenths).filter(lambda t: sum(t) <= 10), st.lists(st.text(min_size=1), max_size=60))
@settings(deadline=None)
def test_no_key_is_on_two_sides_and_with_all_shares_none_is_left_out(
    tenths: tuple[int, int, int], keys: list[str]
) -> None:
    bounds = hash_bounds(shares(*tenths))
    hashes = [key_hash(key.encode(errors="replace").decode()) for key in keys]
    sides = sum(hashed_into(hashes, bounds[name]).astype(int) for name in bounds)
    assert all(side <= 1 for side in sides)
    if sum(tenths) == 10:
        assert all(side == 1 for side in sides)


@given(st.integers(0, 5), st.integers(0, 5))
def test_a_smaller_train_is_a_part_of_the_larger_and_leaves_the_others_as_they_are(smaller: int, more: int) -> None:
    small, large = (hash_bounds(shares(train, 2, 3)) for train in (min(smaller, 5), min(smaller + more, 5)))
    assert small["train"][0] == large["train"][0] == 0
    assert small["train"][1] == -(-(min(smaller, 5) << 64) // 10) <= large["train"][1]
    assert (small["validation"], small["test"]) == (large["validation"], large["test"])


def test_bounds_are_exact_integers() -> None:
    bounds = hash_bounds(shares(7, 2, 1))
    assert bounds["train"][1] == -(-(7 << 64) // 10) == bounds["validation"][0]
    assert bounds["validation"][1] == -(-(9 << 64) // 10) == bounds["test"][0]
    assert hashed_into([bounds["test"][0] - 1, bounds["test"][0], 2**64 - 1], bounds["test"]).tolist() == [0, 1, 1]


def test_the_hash_of_a_key_is_the_same_today_as_when_the_first_split_was_made() -> None:
    assert key_hash("n01440764/a") == 0x5C18B0D9FC350C87
    sizes = Counter(key_hash(f"key{n}") * 10 >> 64 for n in range(10_000))
    assert all(abs(size - 1000) < 150 for size in sizes.values())
