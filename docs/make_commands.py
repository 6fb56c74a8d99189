"""Writes docs/commands.md from the command line itself, and configs/keys.json, from which shells complete keys.

    python docs/make_commands.py

A test keeps both files equal to what this writes.
"""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from megabatch.configs.base import Choice
from megabatch.configs.cluster import Cluster
from megabatch.configs.recipe import Recipe

ROOT = Path(__file__).parents[1]


def files() -> dict[str, str]:
    """Return the text of both files by path."""
    keys = {"recipe": _keys(Recipe), "cluster": _keys(Cluster)}
    return {
        "docs/commands.md": "\n".join(_commands_page()) + "\n",
        "configs/keys.json": json.dumps(keys, separators=(",", ":")) + "\n",
    }


def _keys(model: type[BaseModel]) -> dict[str, Any]:
    named = issubclass(model, Choice)
    return {key: _key(field) for key, field in model.model_fields.items() if not (named and key == "name")}


def _key(field: FieldInfo) -> dict[str, Any]:
    """Return what may be written for a key: values, sections of keys, or choices that have keys of their own."""
    members = _members(field.annotation)
    models = [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]
    choices = [model for model in models if issubclass(model, Choice) and "name" in model.model_fields]
    found: dict[str, Any] = {}
    if values := list(_values(members)):
        found["values"] = values
    if choices:
        found["choices"] = {str(choice.model_fields["name"].default): _keys(choice) for choice in choices}
    elif models:
        found["keys"] = _keys(models[0])
    default = field.default
    if isinstance(default, Choice):
        default = default.name  # type: ignore[attr-defined]
    if isinstance(default, str | int | float) and not isinstance(default, bool):
        found["default"] = str(default)
    return found


def _members(annotation: object) -> list[object]:
    """Return the alternatives of a type; what is inside of lists and mappings is none."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _members(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return [member for part in arguments for member in _members(part)]
    return [annotation]


def _values(members: list[object]) -> Iterator[str]:
    for member in members:
        if typing.get_origin(member) is typing.Literal:
            yield from map(str, typing.get_args(member))
        elif member is bool:
            yield from ("true", "false")
        elif member is type(None):
            yield "null"


def _commands_page() -> Iterator[str]:
    from megabatch.launcher.commands import every_command
    from megabatch.launcher.help_text import SECTIONS

    yield "# Commands\n"
    yield "Written by `docs/make_commands.py` from the command line: what `--help` of each command prints. What the"
    yield "commands end with is in [exit-codes.md](exit-codes.md); completion by Tab in [shell.md](shell.md).\n"
    commands = every_command()
    for title, names in SECTIONS.items():
        yield f"## {title}\n"
        for name in (name for first in names for name in commands if name.split()[0] == first):
            yield f"### megabatch {name}\n\n```text\n{inspect.cleandoc(commands[name])}\n```\n"


if __name__ == "__main__":
    for name, text in files().items():
        (ROOT / name).write_text(text, encoding="utf-8")
