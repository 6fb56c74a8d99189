"""Writes docs/recipe.md, cluster.md and refusals.md, and the table of from-timm.md, from the schema and other tables.

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
from megabatch.launcher.timm_import.arguments import GROUPS

DOCS = Path(__file__).parent
_DEEPEST = 4  # level of a heading
_TIMM_MARK = "<!-- From here on written by docs/make_tables.py. -->"


def pages() -> dict[str, str]:
    """Return the text of every page by file name."""
    return {
        "recipe.md": _schema_page("Keys of a recipe", Recipe),
        "cluster.md": _schema_page("Keys of a cluster file", Cluster),
        "refusals.md": _refusals_page(),
        "from-timm.md": _timm_page(),
    }


def _schema_page(title: str, root: type[BaseModel]) -> str:
    anchors: dict[type[BaseModel], str] = {}
    _collect_anchors(root, "", anchors)
    groups = [f"[{key}](#{_anchor(key)})" for key, field in root.model_fields.items() if _models(field.annotation)]
    lines = [
        f"# {title}",
        "",
        "Written by `docs/make_tables.py` from the schema. `${env:NAME}` is replaced in the keys marked *env*.",
        "Where a key takes one of several named choices, `key: name` is short for `key: {name: name}`.",
        "`data.shuffle.streams` is `streams` in `shuffle` in `data`: in a file `data: {shuffle: {streams: 64}}`,",
        "on the command line `data.shuffle.streams=64`. `megabatch config schema` prints a JSON schema for editors",
        "that complete YAML, `megabatch config schema cluster` that of cluster files.",
        "",
        f"Groups: {', '.join(groups)}.",
        "",
        *_section(root, "", set(), anchors),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _collect_anchors(model: type[BaseModel], prefix: str, found: dict[type[BaseModel], str]) -> None:
    """Note under which heading each model is shown: where it comes first."""
    if model in found:
        return
    found[model] = _anchor(_heading(model, prefix))
    for key, field in model.model_fields.items():
        for inner in _models(field.annotation):
            _collect_anchors(inner, f"{prefix}.{key}" if prefix else key, found)


def _heading(model: type[BaseModel], prefix: str) -> str:
    name = model.model_fields.get("name")
    if issubclass(model, Choice) and name is not None:
        return f"{prefix} = {name.default}"
    return prefix or "Top level"


def _anchor(heading: str) -> str:
    """Return what GitHub, and the site, make of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _section(
    model: type[BaseModel], prefix: str, shown: set[type[BaseModel]], anchors: dict[type[BaseModel], str]
) -> list[str]:
    """Return the section of a model and of what is below it; a model that two keys share is shown once."""
    if model in shown:
        return []
    shown.add(model)
    heading = _heading(model, prefix)
    level = 2 + prefix.count(".") + (" = " in heading)
    lines = [_headline(heading, level), "", inspect.cleandoc(model.__doc__ or ""), ""]
    rows: list[str] = []
    below: list[tuple[str, list[type[BaseModel]]]] = []
    for key, field in model.model_fields.items():
        if key == "name" and issubclass(model, Choice):
            continue
        path = f"{prefix}.{key}" if prefix else key
        inner = _models(field.annotation)
        below.append((path, inner))
        environment = " *env*" if _takes_environment(field) else ""
        rows.append(f"| `{path}` | {_kind(field, inner, anchors)}{environment} | {_default(field)} |")
    lines += ["| key | value | default |", "| --- | --- | --- |", *rows, ""] if rows else ["No keys.", ""]
    for path, inner in below:
        lines += _group(path, inner, shown)
        for child in inner:
            lines += _section(child, path, shown, anchors)
    return lines


def _group(path: str, inner: list[type[BaseModel]], shown: set[type[BaseModel]]) -> list[str]:
    """Return a heading for a key with named choices, before the first of them, so that it can be linked to."""
    chosen = [model for model in inner if issubclass(model, Choice) and model not in shown]
    if not chosen:
        return []
    names = ", ".join(f"`{model.model_fields['name'].default}`" for model in chosen)
    return [_headline(path, 2 + path.count(".")), "", f"{'One of' if len(chosen) > 1 else 'Always'} {names}.", ""]


def _headline(text: str, level: int) -> str:
    return f"{'#' * min(_DEEPEST, level)} {text}"


def _models(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models(part)]


def _kind(field: FieldInfo, inner: list[type[BaseModel]], anchors: dict[type[BaseModel], str]) -> str:
    if len(inner) > 1:
        names = ", ".join(f"[`{model.model_fields['name'].default}`](#{anchors[model]})" for model in inner)
        many = "list of " if typing.get_origin(field.annotation) is tuple else "one of "
        return many + names
    if inner:
        return f"[its keys](#{anchors[inner[0]]})"
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


def _timm_page() -> str:
    """Return the page with its hand-written beginning, and the table of all arguments after it."""
    begin, mark, _ = (DOCS / "from-timm.md").read_text(encoding="utf-8").partition(_TIMM_MARK)
    lines = [begin.rstrip(), "", mark or _TIMM_MARK, ""]
    for title, arguments in GROUPS.items():
        lines += [f"### {title}", "", "| train.py | here | what is different |", "| --- | --- | --- |"]
        for argument in arguments:
            key = f"`{argument.key}`" if argument.key else "-"
            lines.append(f"| `{', '.join(argument.names)}` | {key} | {argument.why} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(re.sub(r"\n{3,}", "\n\n", text), encoding="utf-8")
