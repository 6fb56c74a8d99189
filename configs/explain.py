"""Turns pydantic's errors into Problems: the place in the file, what was seen, and what may stand there."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from megabatch.configs.errors import Problem, nearest, shortened
from megabatch.configs.schema_walk import Section, choices_at, section_at, stands_for
from megabatch.configs.yaml_tree import KeyPath, Tree


def explain(error: ValidationError, root: Section, tree: Tree) -> list[Problem]:
    """Return one Problem for each mistake that pydantic found in `tree` against the schema `root`."""
    return [_explain_one(details, root, tree) for details in error.errors(include_url=False)]


def _explain_one(details: ErrorDetails, root: Section, tree: Tree) -> Problem:
    path = _without_tags(details["loc"], tree.values)
    where = tree.origin(path)
    key = dotted(path)
    kind = details["type"]
    if kind == "extra_forbidden":
        section = section_at(root, tree.values, path[:-1])
        allowed = list(section.model_fields) if section else []
        return Problem(where, f"{key}: unknown key. {nearest(str(path[-1]), allowed)}")
    if kind in ("union_tag_invalid", "union_tag_not_found", "literal_error") or _is_wrong_only_choice(path, details):
        return Problem(where, f"{key}: {_wrong_name(details, root, tree, path)}")
    if kind == "missing":
        return Problem(tree.origin(path[:-1]) or where, f"{key}: missing. Add it{_under(path)}.")
    return Problem(where, f"{key}: {_short(details['input'])}: {_lower_first(_readable(details))}")


def _is_wrong_only_choice(path: KeyPath, details: ErrorDetails) -> bool:
    return bool(path) and path[-1] == "name" and details["type"] == "literal_error"


def _wrong_name(details: ErrorDetails, root: Section, tree: Tree, path: KeyPath) -> str:
    if details["type"] == "union_tag_not_found":
        allowed = choices_at(root, tree.values, path)
        return f"has no name. Write `name: ...` under it. {nearest('', allowed)}"
    if details["type"] == "union_tag_invalid":
        tag = details["ctx"]["tag"]
        return f"{_short(tag)} is not known. {nearest(tag, choices_at(root, tree.values, path))}"
    allowed = re.findall(r"'([^']*)'", details["ctx"]["expected"])
    return f"{_short(details['input'])} is not one of the values. {nearest(str(details['input']), allowed)}"


_PATTERNS = {
    r"^(timm/[\w.\-]+|torchvision/\w+|[\w.]+:\w+)$": "write timm/NAME, torchvision/NAME or package.module:callable",
    r"^torch/\w+$": "write torch/NAME with the name of a class of torch.optim",
    r"^timm/\w+$": "write timm/NAME with one of the names in timm.optim.list_optimizers()",
    r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,79}$": "use letters, digits, '.', '_' and '-' only, at most 80 of them",
    r"^[0-9a-f]{64}$": "write the 64 digits that sha256sum prints",
    r"^[A-Za-z]\w*$": "not the name of an argument (write a space after the colon, as in {width: 3})",
    r"^[A-Za-z_][A-Za-z0-9_]*$": "not the name of an environment variable",
}


def _readable(details: ErrorDetails) -> str:
    if details["type"] == "string_pattern_mismatch":
        pattern = details["ctx"]["pattern"]
        return _PATTERNS.get(pattern, "use letters, digits and _.,:=@%+/-[]&|* only, at most 256 of them")
    message = details["msg"].removeprefix("Value error, ")
    message = message.replace("valid tuple", "list (`[a, b]`)").replace("valid array", "list (`[a, b]`)")
    return message.replace("Input should", "should").replace("valid dictionary", "mapping (`key: value` lines)")


def _short(value: Any) -> str:
    """Return a value as it is written in Python, the end of a long one left out."""
    return shortened(repr(value))


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _under(path: KeyPath) -> str:
    return f" under {dotted(path[:-1])}" if len(path) > 1 else " at the top level"


def _without_tags(location: tuple[int | str, ...], values: Any) -> KeyPath:
    """Drop the union tags that pydantic puts into `loc`: optimizer.lars.momentum is optimizer.momentum in the file."""
    path: list[str | int] = []
    for step in location:
        if isinstance(values, dict) and step not in values and stands_for(step, values.get("name")):
            continue
        if isinstance(values, str) and stands_for(step, values):  # the short form `optimizer: lars`
            continue
        path.append(step)
        if isinstance(values, dict):
            values = values.get(str(step))
        elif isinstance(values, list) and isinstance(step, int) and step < len(values):
            values = values[step]
    return tuple(path)


def dotted(path: KeyPath) -> str:
    """Return the key path as a user writes it: `data.train_transforms.0.name`."""
    return ".".join(str(step) for step in path) or "the file"
