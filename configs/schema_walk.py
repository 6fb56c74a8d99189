"""Finds the section or field of the schema that a key path leads to. Only for messages and `${env:NAME}`."""

from __future__ import annotations

import types
import typing
from typing import Annotated, Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from megabatch.configs.base import Choice
from megabatch.configs.yaml_tree import KeyPath

Section = type[BaseModel]


def section_at(root: Section, values: Any, path: KeyPath) -> Section | None:  # Any: values of a YAML file
    """Return the model class that `path` leads to, choosing among alternatives by their `name`."""
    current: Any = root
    for step in path:
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(str(step))
            current = field.annotation if field else None
        else:
            current = _item_of(current)
        values = _value_at(values, step)
        current = _resolve(current, values)
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None


def field_at(root: Section, values: Any, path: KeyPath) -> FieldInfo | None:
    """Return the field that `path` names, or None where the schema has no such field."""
    section = section_at(root, values, path[:-1])
    return section.model_fields.get(str(path[-1])) if section else None


def metadata_at(root: Section, values: Any, path: KeyPath) -> list[Any]:
    """Return the Annotated metadata of the field at `path`, looking into `X | None` and dict values."""
    field = field_at(root, values, path)
    if field is not None:
        return [*field.metadata, *_nested_metadata(field.annotation)]
    parent = field_at(root, values, path[:-1]) if len(path) > 1 else None
    return _nested_metadata(parent.annotation) if parent is not None else []


def choices_at(root: Section, values: Any, path: KeyPath) -> list[str]:
    """Return the names of the alternatives at `path` (["sgd", "lars", ...]), or an empty list."""
    parent: Any = section_at(root, values, path[:-1])
    if parent is None:
        parent = field_at(root, values, path[:-1])
        alternatives = _alternatives(_item_of(parent.annotation)) if parent else []
    else:
        field = parent.model_fields.get(str(path[-1]))
        alternatives = _alternatives(field.annotation) if field else []
    return [_name_of(alternative) for alternative in alternatives]


def _alternatives(annotation: Any) -> list[type[Choice]]:
    members = _union_members(annotation)
    return [m for m in members if isinstance(m, type) and issubclass(m, Choice)]


def _union_members(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) is Annotated:
        return _union_members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [member for part in typing.get_args(annotation) for member in _union_members(part)]
    return [annotation]


def _name_of(choice: type[Choice]) -> str:
    return str(choice.model_fields["name"].default)


def _resolve(annotation: Any, values: Any) -> Any:
    members = [m for m in _union_members(annotation) if m is not type(None)]
    if len(members) == 1:
        return members[0]
    name = values.get("name") if isinstance(values, dict) else values
    return next((m for m in _alternatives(annotation) if stands_for(_name_of(m), name)), None)


def stands_for(choice: object, name: object) -> bool:
    """Return whether a value of `name` means the alternative: `torch/NAME` is all that begin with `torch/`."""
    prefix, slash, rest = str(choice).partition("/")
    return choice == name or (rest == "NAME" and str(name).startswith(prefix + slash))


def _item_of(annotation: Any) -> Any:
    """Return the element type of `tuple[X, ...]` or the value type of `dict[str, X]`."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple:
        return arguments[0]
    return arguments[1] if typing.get_origin(annotation) is dict else None


def _nested_metadata(annotation: Any) -> list[Any]:
    found: list[Any] = []
    if typing.get_origin(annotation) is Annotated:
        found += typing.get_args(annotation)[1:]
    for part in typing.get_args(annotation):
        if not isinstance(part, str | int):
            found += _nested_metadata(part)
    return found


def _value_at(values: Any, step: str | int) -> Any:
    if isinstance(values, dict):
        return values.get(step)
    if isinstance(values, list) and isinstance(step, int) and step < len(values):
        return values[step]
    return None
