"""Which tensor of a file belongs to which of a network: by name, after prefixes that wrappers add. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import permutations
from typing import NamedTuple

Shape = tuple[int, ...]
# Of DistributedDataParallel and torch's averaged models, of torch.compile, of modules that hold the network.
PREFIXES = ("module.", "_orig_mod.", "model.")


class OtherShape(NamedTuple):
    """A tensor that both have, in two shapes."""

    name: str
    there: Shape
    here: Shape


class Match(NamedTuple):
    """`pairs` leads from names of the network to names of the file. Every name of both stands in one place only."""

    pairs: dict[str, str]
    other_shape: tuple[OtherShape, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    removed: str
    added: str


def match(there: Mapping[str, Shape], here: Mapping[str, Shape]) -> Match:
    """Match the tensors of a file (`there`) with those of a network (`here`).

    One prefix may be taken from the names of the file, and one put in front of them, each made of PREFIXES: those with
    which most tensors fit, and the shortest of these.

    >>> match({"module.w": (2, 3), "module.b": (5,)}, {"w": (2, 3), "b": (4,)})[:2]
    ({'w': 'module.w'}, (OtherShape(name='b', there=(5,), here=(4,)),))
    """
    ways = [(removed, added) for removed in _prefixes_of(there) for added in _prefixes_of(here)]
    removed, added = max(ways, key=lambda way: (*_fitting(there, here, *way), -len(way[0]) - len(way[1])))
    renamed = _renamed(there, removed, added)
    common = {name: renamed[name] for name in here if name in renamed}
    pairs = {mine: its for mine, its in common.items() if there[its] == here[mine]}
    used = set(common.values())
    return Match(
        pairs=pairs,
        other_shape=tuple(OtherShape(m, there[i], here[m]) for m, i in common.items() if m not in pairs),
        missing=tuple(name for name in here if name not in common),
        unused=tuple(name for name in there if name not in used),
        removed=removed,
        added=added,
    )


def _prefixes_of(names: Iterable[str]) -> list[str]:
    """Return every order of PREFIXES, whole or in part, with which at least one name begins."""
    names = list(names)
    chains = ["".join(chain) for length in range(len(PREFIXES) + 1) for chain in permutations(PREFIXES, length)]
    return [chain for chain in chains if not chain or any(name.startswith(chain) for name in names)]


def _renamed(there: Iterable[str], removed: str, added: str) -> dict[str, str]:
    """Return the names of the file by the names they would have in the network."""
    return {added + name.removeprefix(removed): name for name in there if name.startswith(removed)}


def _fitting(there: Mapping[str, Shape], here: Mapping[str, Shape], removed: str, added: str) -> tuple[int, int]:
    """Return how many tensors fit in name and shape, and how many in name."""
    renamed = _renamed(there, removed, added)
    common = [(name, renamed[name]) for name in here if name in renamed]
    return sum(there[its] == here[mine] for mine, its in common), len(common)
