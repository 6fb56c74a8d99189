"""What a bad input is, and how the usual ones are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from support.runs import RECIPE

LAUNCH = ("launch", "recipe.yaml")
X = ("launch", "x.yaml")
CLUSTER = ("launch", "recipe.yaml", "--cluster", "x.yaml")


@dataclass(frozen=True)
class Bad:
    """One mistake: `told` is what must stand in the message, where it is and what to do; `make` writes the files."""

    what: str
    told: tuple[str, ...]
    arguments: tuple[str, ...] = LAUNCH
    make: Callable[[Path], object] | None = None
    variables: dict[str, str | None] = field(default_factory=dict)  # None: not set


def written(name: str, content: str | bytes) -> Callable[[Path], object]:
    """Return what writes a file with this content."""
    raw = content.encode(errors="surrogateescape") if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(raw)


def recipe(what: str, content: str | bytes, *told: str) -> Bad:
    """Return a mistake in a recipe x.yaml with this content."""
    return Bad(f"recipe: {what}", told, X, written("x.yaml", content))


def changed(what: str, old: str, new: str, *told: str) -> Bad:
    """Return a mistake in the usual recipe, in which `old` was replaced."""
    assert old in RECIPE
    return recipe(what, RECIPE.replace(old, new, 1), *told)


def cluster(what: str, content: str, *told: str) -> Bad:
    """Return a mistake in a cluster file x.yaml with this content."""
    return Bad(f"cluster: {what}", told, CLUSTER, written("x.yaml", content))


def override(what: str, override: str, *told: str) -> Bad:
    """Return a mistake in an override on the command line."""
    return Bad(f"override: {what}", told, (*LAUNCH, override))
