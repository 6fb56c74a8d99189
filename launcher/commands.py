"""All commands there are, by name, with the help of each: for the reference in docs, and for tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from typer._click import Command, Context  # typer has its own copy of click

_COLUMNS = 80  # whatever the terminal has: the reference must not depend on it


def every_command() -> dict[str, str]:
    """Return the help of every command by its name, such as "data import"; a group that does nothing has none."""
    return {name: command.get_help(context) for name, command, context in walk()}


def walk() -> Iterator[tuple[str, Command, Context]]:
    """Yield every command with its name and the context that its help is printed in."""
    from megabatch.launcher.cli import app

    whole = typer.main.get_command(app)
    yield from _below("", whole, whole.context_class(whole, info_name="megabatch", terminal_width=_COLUMNS))


def _below(prefix: str, command: Command, context: Context) -> Iterator[tuple[str, Command, Context]]:
    if not isinstance(command, TyperGroup):
        yield prefix, command, context
        return
    if prefix and command.invoke_without_command:
        yield prefix, command, context
    for name, child in command.commands.items():
        below = child.context_class(child, info_name=name, parent=context)
        yield from _below(f"{prefix} {name}".strip(), child, below)
