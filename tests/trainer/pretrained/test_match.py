"""Matching tensors by name: whatever wrappers put before the names, and no tensor lost or used twice."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from megabatch.trainer.pretrained.match import PREFIXES, Shape, match

SHAPES = st.lists(st.integers(1, 3), max_size=2).map(tuple)
WORD = st.sampled_from(["conv1", "layer1", "0", "weight", "module", "model", "n_averaged"])
NAMES = st.lists(WORD, min_size=1, max_size=3).map(".".join)
STATES = st.dictionaries(NAMES, SHAPES, max_size=8)
CHAINS = ["".join(chain) for length in range(4) for chain in permutations(PREFIXES, length)]
PLAIN = st.dictionaries(
    st.lists(st.sampled_from(["conv1", "layer1", "0", "weight"]), min_size=1, max_size=3).map(".".join),
    SHAPES,
    min_size=1,
    max_size=8,
)


@settings(max_examples=50)
@given(STATES, STATES)
def test_every_tensor_of_both_sides_stands_in_one_place_only(there: dict[str, Shape], here: dict[str, Shape]) -> None:
    found = match(there, here)
    others = [one.name for one in found.other_shape]
    assert sorted([*found.pairs, *others, *found.missing]) == sorted(here)
    assert len(set(found.pairs.values())) == len(found.pairs)
    assert set(found.pairs.values()) | set(found.unused) <= set(there)
    assert len(found.pairs) + len(others) + len(found.unused) == len(there)
    assert all(here[mine] == there[its] for mine, its in found.pairs.items())
    assert all(one.here == here[one.name] != one.there for one in found.other_shape)
    assert all(its.removeprefix(found.removed) == mine.removeprefix(found.added) for mine, its in found.pairs.items())


@given(PLAIN, st.sampled_from(CHAINS), st.sampled_from(CHAINS))
def test_any_wrappers_on_either_side_are_seen_through(plain: dict[str, Shape], outer: str, inner: str) -> None:
    there = {outer + name: shape for name, shape in plain.items()}
    here = {inner + name: shape for name, shape in plain.items()}
    found = match({**there, "n_averaged": ()}, here)
    assert found.pairs == {inner + name: outer + name for name in plain}
    assert (found.missing, found.other_shape, found.unused) == ((), (), ("n_averaged",))


@given(PLAIN)
def test_nothing_is_renamed_where_the_names_are_the_same(plain: dict[str, Shape]) -> None:
    found = match(plain, plain)
    assert (found.removed, found.added, found.pairs) == ("", "", {name: name for name in plain})


def test_among_several_prefixes_that_fit_the_one_with_most_tensors_of_the_right_shape_counts() -> None:
    here = {"weight": (2, 3), "bias": (2,)}
    there = {"weight": (9,), "bias": (9,), "module.weight": (2, 3), "module.bias": (2,)}
    found = match(there, here)
    assert found.pairs == {"weight": "module.weight", "bias": "module.bias"}
    assert found.unused == ("weight", "bias")
