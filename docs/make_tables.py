"""Writes docs/recipe.md, docs/cluster.md and docs/refusals.md from the schema and the table of refusals.

    python docs/make_tables.py

A test keeps the pages equal to what this writes.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from megabatch.configs.base import LARGEST, Choice, EnvironmentAllowed
from megabatch.configs.cluster import Cluster
from megabatch.configs.recipe import Recipe
from megabatch.configs.schema_walk import metadata_at
from megabatch.launcher.refusals import TABLE

DOCS = Path(__file__).parent


def pages() -> dict[str, str]:
    """Return the text of every page by file name."""
    return {
        "recipe.md": _schema_page("Keys of a recipe", Recipe),
        "cluster.md": _schema_page("Keys of a cluster file", Cluster),
        "refusals.md": _refusals_page(),
    }


def _schema_page(title: str, root: type[BaseModel]) -> str:
    lines = [
        f"# {title}",
        "",
        "Written by `docs/make_tables.py` from the schema. `${env:NAME}` is replaced in the keys marked *env*.",
        "Where a key takes one of several named choices, `key: name` is short for `key: {name: name}`.",
        "",
        *_section(root, "", set()),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _section(model: type[BaseModel], prefix: str, shown: set[type[BaseModel]]) -> list[str]:
    """Return the section of a model and of what is below it; a model that two keys share is shown once."""
    if model in shown:
        return []
    shown.add(model)
    heading = f"## {prefix or 'Top level'}"
    name = model.model_fields.get("name")
    if issubclass(model, Choice) and name is not None:
        heading = f"## {prefix} = {name.default}"
    lines = [heading, "", inspect.cleandoc(model.__doc__ or ""), "", "| key | value | default |", "| --- | --- | --- |"]
    children: list[tuple[type[BaseModel], str]] = []
    for key, field in model.model_fields.items():
        if key == "name" and issubclass(model, Choice):
            continue
        path = f"{prefix}.{key}" if prefix else key
        inner = _models(field.annotation)
        children += [(child, path) for child in inner]
        environment = " *env*" if _takes_environment(field) else ""
        lines.append(f"| `{path}` | {_kind(field, inner)}{environment} | {_default(field)} |")
    if lines[-1].startswith("| ---"):
        lines = [*lines[:-2], "No keys."]
    lines.append("")
    for child, path in children:
        lines += _section(child, path, shown)
    return lines


def _models(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models(part)]


def _kind(field: FieldInfo, inner: list[type[BaseModel]]) -> str:
    if len(inner) > 1:
        names = ", ".join(f"`{model.model_fields['name'].default}`" for model in inner)
        many = "list of " if typing.get_origin(field.annotation) is tuple else "one of "
        return many + names
    if inner:
        return "see below"
    return _type_name(field.annotation) + _bounds(field)


def _type_name(annotation: object) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type_name(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_name(part) for part in arguments)
    if origin is tuple:
        inner = [_type_name(part) for part in arguments if part is not Ellipsis]
        return f"list of {inner[0]}" if Ellipsis in arguments else f"list of {len(inner)}: {inner[0]}"
    if origin is dict:
        return "mapping"
    names = {int: "integer", float: "number", str: "text", bool: "`true` or `false`", type(None): "`null`"}
    return names[annotation]  # type: ignore[index]


def _bounds(field: FieldInfo) -> str:
    signs = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    found = [
        f"{word} {getattr(part, sign):g}"
        for part in field.metadata
        for sign, word in signs.items()
        if getattr(part, sign, LARGEST) != LARGEST
    ]
    return f", {' and '.join(found)}" if found else ""


def _takes_environment(field: FieldInfo) -> bool:
    class Holder(BaseModel):
        pass

    Holder.model_fields["key"] = field
    return any(m is EnvironmentAllowed or isinstance(m, EnvironmentAllowed) for m in metadata_at(Holder, {}, ("key",)))


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "**required**"
    if isinstance(value, Choice):
        return f"`{value.name}`"  # type: ignore[attr-defined]
    if isinstance(value, BaseModel):
        return ""
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{[*value] if isinstance(value, tuple) else value}`"


def _refusals_page() -> str:
    lines = [
        "# What is refused",
        "",
        "Written by `docs/make_tables.py` from `launcher/refusals/`. Nothing is ever adjusted to make it fit;",
        "the message says what to write instead, with your numbers in it.",
        "",
        "| what | because |",
        "| --- | --- |",
        *(f"| {refusal.rule} | {refusal.because} |" for refusal in TABLE),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(re.sub(r"\n{3,}", "\n\n", text), encoding="utf-8")
