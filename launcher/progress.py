"""How far a long piece of work is, on stderr: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import typer

SECONDS_BETWEEN_LINES = 10
_NARROW = 80


@contextmanager
def progress_on_stderr(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (done, total). Nothing is shown before its first call."""
    with ExitStack() as stack:
        show: Callable[[int, int], None] | None = None

        def progress(done: int, total: int) -> None:
            nonlocal show
            if show is None:
                show = stack.enter_context(_bar_or_lines(what))
            show(done, total)

        yield progress


@contextmanager
def _bar_or_lines(what: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    console = Console(stderr=True)
    if not (console.is_interactive and console.file.isatty()):  # FORCE_COLOR makes a log no terminal
        yield _lines(what)
        return
    bar_column = BarColumn(bar_width=None, table_column=Column(ratio=1, max_width=40))  # the first to become narrow
    count, left = (Column(no_wrap=True) for _ in range(2))
    columns = (
        TextColumn(what),
        bar_column,
        MofNCompleteColumn(table_column=count),
        TimeRemainingColumn(table_column=left),
    )
    with Progress(*columns, console=console, transient=True, expand=console.width < _NARROW) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(what: str) -> Callable[[int, int], None]:
    last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            typer.echo(f"{what}: {done:,} of {total:,}", err=True)

    return progress
