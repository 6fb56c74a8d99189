"""Which cells an ablation has, and how --vary is read."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabatch.configs.errors import ConfigError
from megabatch.launcher.study.matrix import BASE, Cell, Factor, cells_of, parse_factor

FACTORS = [Factor("epochs", ("1", "2")), Factor("optimizer.momentum", ("0", "0.9", "0.95"))]


def test_each_value_stands_alone_against_the_base() -> None:
    labels = [cell.label for cell in cells_of(FACTORS, full=False)]
    assert labels == [BASE, "epochs=1", "epochs=2", *(f"optimizer.momentum={v}" for v in ("0", "0.9", "0.95"))]


def test_full_has_every_combination_and_the_base() -> None:
    cells = cells_of(FACTORS, full=True)
    pairs = itertools.product(("epochs=1", "epochs=2"), (f"optimizer.momentum={v}" for v in ("0", "0.9", "0.95")))
    assert [cell.overrides for cell in cells] == [(), *pairs]


@given(
    st.lists(st.sampled_from(["0.1", "[a, b]", "{name: x, p: 1}", '"a|b"', "'|'", "[1|2]"]), min_size=1, unique=True)
)
def test_bars_split_values_but_not_what_is_quoted_or_bracketed(values: list[str]) -> None:
    assert parse_factor("data.key=" + "|".join(values)) == Factor("data.key", tuple(values))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("epochs", "write KEY=VALUE|VALUE"),
        ("epochs=", "write KEY=VALUE|VALUE"),
        ("epochs=1||2", "write KEY=VALUE|VALUE"),
        ("=1", "write KEY=VALUE|VALUE"),
        ("seed=1|2", "--seeds says how many"),
        ("cluster.nodes=1|2", "vary keys of the recipe"),
        ("epochs=1|1", "a value stands there twice"),
    ],
)
def test_what_is_no_factor_is_refused_with_a_reason(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match="--vary") as refused:
        parse_factor(text)
    assert told in str(refused.value)


def test_a_key_varied_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="write all values after one --vary"):
        cells_of([FACTORS[0], Factor("epochs", ("3",))], full=False)


@given(st.lists(st.text(min_size=1, max_size=80), min_size=1, max_size=8, unique=True))
def test_folders_are_safe_names_and_different_for_different_cells(overrides: list[str]) -> None:
    folders = [Cell((text,)).folder for text in overrides]
    assert len(set(folders)) == len(folders)
    assert all("/" not in folder and not folder.startswith(".") and len(folder) < 80 for folder in folders)
