"""How a user's mistakes are told: all at once, each with its place, what was seen and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from typing_extensions import override


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake. `where` is "file:line:column", "command line" or a file name; `message` says the rest."""

    where: str
    message: str

    @override
    def __str__(self) -> str:
        """Return the one line that is printed."""
        return f"{self.where}: {self.message}" if self.where else self.message


class ConfigError(ValueError):
    """The recipe, the cluster file or an override cannot be used. Carries every problem found."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = sorted(set(problems), key=_by_place)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def _by_place(problem: Problem) -> tuple[str, int, int, str]:
    file, _, rest = problem.where.partition(":")
    line, _, column = rest.partition(":")
    return (file, int(line) if line.isdigit() else 0, int(column) if column.isdigit() else 0, problem.message)


def shortened(text: str, most: int = 200) -> str:
    """Return a user's own text as it may stand in a message: in one line, without control characters, not endless.

    >>> shortened("epochs=3"), shortened("a\\nb"), shortened("x" * 10, most=3)
    ('epochs=3', 'a\\\\nb', 'xxx...')
    """
    shown = text if text.isprintable() else repr(text)[1:-1]
    return shown if len(shown) <= most else f"{shown[:most]}..."


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Return `Did you mean X? Allowed: ...` for a word that is not among the allowed ones.

    >>> nearest("wieght_decay", ["momentum", "weight_decay"])
    'Did you mean weight_decay? Allowed: momentum, weight_decay.'
    """
    names = list(allowed)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    hint = f"Did you mean {close[0]}? " if close else ""
    return f"{hint}Allowed: {', '.join(names) or 'none'}."
