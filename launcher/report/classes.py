"""What an evaluation found beyond its figures: classes, confusions, worst mistakes; readable at 10 and at 1000."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from megabatch.launcher.report import words
from megabatch.launcher.report.table import Table

MATRIX_CLASSES = 20  # with more the cells are too small to read
_SHOWN_CLASSES = 40
_PAIRS = 12
_SHADES = 9
_BINS = 10
_SHOWN_OF_SEVERAL = 4
_JPEG = re.compile(r"[A-Za-z0-9+/]+={0,2}")


@dataclass(frozen=True)
class ClassRow:
    """How a class fares; `share` is what the bar shows."""

    name: str
    share: float
    shown: str
    more: str


@dataclass(frozen=True)
class Cell:
    """A cell of the confusion matrix: how many, which shade, and whether it lies on the diagonal."""

    count: int
    shade: int
    right: bool


@dataclass(frozen=True)
class Mistake:
    """A sample of the grid."""

    image: str | None  # base64
    title: str
    lines: tuple[str, ...]
    place: str


@dataclass(frozen=True)
class Details:
    """One evaluation."""

    split: str
    title: str
    told: str
    what: str
    rows: tuple[ClassRow, ...]
    all_rows: Table | None  # where there are too many to show
    histogram: tuple[tuple[str, int, float], ...]  # span of accuracy, classes in it, height from 0 to 1
    names: tuple[str, ...]
    matrix: tuple[tuple[Cell, ...], ...]
    pairs: Table | None
    mistakes: tuple[Mistake, ...]

    @property
    def long_names(self) -> bool:
        """Return whether the names are too long to stand upright over narrow columns."""
        return any(len(name) > 3 for name in self.names)


def details_of(values: dict[str, Any]) -> Details:
    """Return what one details-SPLIT.json says."""
    names = [words.plain(name) for name in values.get("classes") or values.get("outputs") or ()]
    target = str(values.get("target") or "class")
    rows = _rows(values, names, target)
    many = len(rows) > _SHOWN_CLASSES
    confusion = [cell for cell in values.get("confusion") or () if len(cell) == 3]
    small = target == "class" and 0 < len(names) <= MATRIX_CLASSES and bool(confusion)
    return Details(
        split=str(values.get("split")), title="Numbers" if target == "numbers" else "Classes", told=_told(values),
        what=_what(target),
        rows=tuple(_least_and_best(rows) if many else rows), all_rows=_table(rows, target) if many else None,
        histogram=tuple(_histogram(rows)) if many else (), names=tuple(names) if small else (),
        matrix=_matrix(confusion, values.get("per_class") or (), len(names)) if small else (),
        pairs=_pairs(confusion, names, values.get("per_class") or ()),
        mistakes=tuple(_mistake(entry, names) for entry in values.get("mistakes") or ()),
    )  # fmt: skip


def _told(values: dict[str, Any]) -> str:
    samples, checkpoint = values.get("samples"), values.get("checkpoint")
    of = f"{samples:,} samples" if isinstance(samples, int) else ""
    step = f"the network of step {values['step']:,}" if isinstance(values.get("step"), int) else ""
    which = f" ({checkpoint} checkpoint)" if checkpoint in ("best", "last") else ""
    return f"{of}, {step}{which}".strip(", ")


def _what(target: str) -> str:
    return {"labels": "average precision", "numbers": "mean absolute error"}.get(target, "accuracy")


def _rows(values: dict[str, Any], names: Sequence[str], target: str) -> list[ClassRow]:
    if target == "numbers":
        return _outputs(values, names)
    found = []
    for entry in values.get("per_class") or ():
        name = _name(names, entry.get("class"))
        samples = int(entry.get("samples") or 0)
        if target == "labels":
            share = float(entry.get("average_precision") or 0.0)
            more = f"{_found(entry)}, recall {_percent(entry.get('recall'))}"
        else:
            right = int(entry.get("correct") or 0)
            share = right / samples if samples else 0.0
            more = f"{right:,} of {samples:,}, said {int(entry.get('predicted') or 0):,} times"
        found.append(ClassRow(name, share, f"{share:.1%}" if samples else "no samples", more))
    return found


def _found(entry: dict[str, Any]) -> str:
    precision = entry.get("precision")
    return "never predicted" if precision is None else f"precision {_percent(precision)}"


def _outputs(values: dict[str, Any], names: Sequence[str]) -> list[ClassRow]:
    entries = values.get("per_output") or ()
    most = max((float(entry.get("mae") or 0.0) for entry in entries), default=0.0) or 1.0
    return [
        ClassRow(
            _name(names, entry.get("output")), float(entry.get("mae") or 0.0) / most, f"{entry.get('mae') or 0.0:.4g}",
            f"bias {entry.get('bias') or 0.0:+.4g}",
        )
        for entry in entries
    ]  # fmt: skip


def _least_and_best(rows: Sequence[ClassRow]) -> list[ClassRow]:
    ordered = sorted(rows, key=lambda row: row.share)
    return [*ordered[: _SHOWN_CLASSES // 2], *ordered[-5:]]


def _table(rows: Sequence[ClassRow], target: str) -> Table:
    ordered = sorted(rows, key=lambda row: row.share)
    return Table(("Class", _what(target).capitalize(), "Samples"), tuple((r.name, r.shown, r.more) for r in ordered))


def _histogram(rows: Sequence[ClassRow]) -> list[tuple[str, int, float]]:
    counts = [0] * _BINS
    for row in rows:
        counts[min(_BINS - 1, int(row.share * _BINS))] += 1
    most = max(counts) or 1
    return [(f"{10 * i} to {10 * (i + 1)}", count, count / most) for i, count in enumerate(counts)]


def _matrix(
    confusion: Sequence[Sequence[int]], per_class: Sequence[dict[str, Any]], size: int
) -> tuple[tuple[Cell, ...], ...]:
    """Return the counts, shaded by their share of the true class."""
    counts = {(int(true), int(said)): int(count) for true, said, count in confusion}
    of_class = _samples_of(per_class)

    def cell(true: int, said: int) -> Cell:
        count, samples = counts.get((true, said), 0), of_class.get(true) or 1
        shade = 0 if not count else min(_SHADES, 1 + int(_SHADES * (count / samples) ** 0.5))
        return Cell(count, shade, true == said)

    return tuple(tuple(cell(true, said) for said in range(size)) for true in range(size))


def _pairs(
    confusion: Sequence[Sequence[int]], names: Sequence[str], per_class: Sequence[dict[str, Any]]
) -> Table | None:
    of_class = _samples_of(per_class)
    wrong = sorted((cell for cell in confusion if cell[0] != cell[1]), key=lambda cell: -cell[2])[:_PAIRS]
    rows = tuple(
        (_name(names, true), _name(names, said), f"{count:,}",
         f"{count / of_class[true]:.1%}" if of_class.get(true) else "")
        for true, said, count in wrong
    )  # fmt: skip
    return Table(("True class", "Taken for", "Samples", "Of the class"), rows, texts=2) if rows else None


def _samples_of(per_class: Sequence[dict[str, Any]]) -> dict[int, int]:
    return {
        entry["class"]: int(entry.get("samples") or 0) for entry in per_class if isinstance(entry.get("class"), int)
    }


def _mistake(entry: dict[str, Any], names: Sequence[str]) -> Mistake:
    image = entry.get("thumbnail")
    known = isinstance(image, str) and _JPEG.fullmatch(image) is not None
    place = f"{entry.get('key')} in {entry.get('shard')}"
    if "targets" in entry:
        title, lines = _of_several(entry, names)
    else:
        title = f"{_name(names, entry.get('label'))}"
        lines = (f"taken for {_name(names, entry.get('predicted'))}, {_percent(entry.get('probability'))}",)
    loss = entry.get("loss")
    told = (f"loss {loss:.3g}",) if isinstance(loss, int | float) else ()
    return Mistake(image if known else None, title, (*lines, *told), words.plain(place))


def _of_several(entry: dict[str, Any], names: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return what a sample is and what it was taken for: numbers, or classes with their probabilities."""
    targets, said = list(entry.get("targets") or ()), list(entry.get("predictions") or ())
    lines = [_one_of_several(value, names) for value in said[:_SHOWN_OF_SEVERAL]]
    return ", ".join(_one_of_several(value, names) for value in targets) or "none", ("taken for", *lines)


def _one_of_several(value: object, names: Sequence[str]) -> str:
    if isinstance(value, list) and len(value) == 2:
        return f"{_name(names, value[0])} {_percent(value[1])}"
    return f"{value:.4g}" if isinstance(value, float) else _name(names, value)


def _name(names: Sequence[str], number: object) -> str:
    return names[number] if isinstance(number, int) and 0 <= number < len(names) else words.plain(number)


def _percent(share: object) -> str:
    return f"{share:.1%}" if isinstance(share, int | float) else "unknown"
