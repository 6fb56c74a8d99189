"""A table of a report as a value: columns, and rows of texts whose first names the row."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """`texts` columns from the left are words, all others numbers; `best` are cells to point out (row, column)."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: int = 1
    best: frozenset[tuple[int, int]] = frozenset()
