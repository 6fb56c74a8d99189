"""The line of a step on a terminal: a bar, and beside it as much as the width has room for."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table

_LEAST_BAR, _LARGEST_BAR = 8, 40
_GAP = 2


def is_watched(console: Console) -> bool:
    """Return whether somebody looks at it: a terminal that can rewrite a line. FORCE_COLOR alone makes a log none."""
    return console.is_interactive and console.file.isatty()


@dataclass(frozen=True)
class StepLine:
    """What there is to tell. `by_worth` is told from the front as far as it fits; in the line it stands in this order.

    `done` is the share of the samples of all epochs.
    """

    done: float
    before: str
    behind: str
    by_worth: tuple[str, ...]

    def fitting(self, width: int) -> tuple[str, ...]:
        """Return what fits beside the smallest bar."""
        room = width - len(self.before) - len(self.behind) - _LEAST_BAR - len("100%") - 3 * _GAP
        kept = []
        for part in self.by_worth:
            room -= len(part) + _GAP
            if room < 0:
                break
            kept.append(part)
        return tuple(kept)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it as wide as the terminal is now."""
        told = self.fitting(options.max_width)
        texts = (self.before, f"{self.done:4.0%}", *told, self.behind)
        room = options.max_width - sum(len(text) + _GAP for text in texts)
        grid = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False)
        for _ in range(len(texts) + 1):
            grid.add_column(no_wrap=True)
        bar = ProgressBar(total=1.0, completed=self.done, width=max(1, min(room, _LARGEST_BAR)))
        grid.add_row(self.before, bar, *texts[1:])
        yield grid
