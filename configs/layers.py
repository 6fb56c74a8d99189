"""Lays one tree over another: a file over its base, and key=value overrides over both."""

from __future__ import annotations

from typing import Any

from megabatch.configs.errors import ConfigError, Problem, shortened
from megabatch.configs.yaml_tree import KeyPath, Tree, parse_tree


def merge(base: Tree, top: Tree) -> Tree:
    """Return `base` with `top` laid over it, key by key; a list, or a choice of another name, replaces the whole."""
    result = Tree(dict(base.values), dict(base.origins))
    result.values = _merge_values(result, result.values, top, top.values, ())
    result.origins[()] = top.origins.get((), base.origins.get((), ""))
    return result


def _merge_values(result: Tree, below: Any, top: Tree, above: Any, path: KeyPath) -> Any:
    if isinstance(below, dict) and isinstance(above, dict) and (not path or _same_choice(below, above)):
        merged = dict(below)
        for key, value in above.items():
            merged[key] = _merge_values(result, below.get(key), top, value, (*path, key))
        return merged
    result.forget(path)
    result.origins.update({known: place for known, place in top.origins.items() if known[: len(path)] == path})
    return above


def _same_choice(below: dict[str, Any], above: dict[str, Any]) -> bool:
    return "name" not in above or "name" not in below or above["name"] == below["name"]


def apply_override(tree: Tree, text: str, prefix: str = "", place: str = "command line") -> None:
    """Set `key.sub=value` in the tree; the value is read as YAML, so lists and mappings work. It stands in `place`.

    >>> tree = parse_tree("optimizer: {name: lars}", "recipe.yaml")
    >>> apply_override(tree, "optimizer.momentum=0.8")
    >>> tree.values
    {'optimizer': {'name': 'lars', 'momentum': 0.8}}
    """
    key, equals, value_text = text.partition("=")
    shown = f"{place}, {prefix}{shortened(text)}"
    steps = key.split(".")
    if not equals or not all(steps):
        raise ConfigError([Problem(shown, "not an override: write key.sub=value")])
    values = parse_tree(f"value: {value_text}", shown).values
    if list(values) != ["value"]:
        raise ConfigError([Problem(shown, "more than one value: write one override for each key")])
    parsed = values["value"]
    path = tuple(int(step) if step.isdigit() else step for step in steps)
    _put(tree, path, parsed, shown)
    tree.forget(path)
    tree.origins[path] = shown


def _put(tree: Tree, path: KeyPath, value: Any, shown: str) -> None:
    parent: Any = tree.values
    for depth, step in enumerate(path[:-1]):
        child = _child(parent, step)
        if isinstance(child, str) and isinstance(parent, dict):
            child = parent[str(step)] = {"name": child}  # `optimizer: lars` written short, overridden in parts
            tree.origins[path[: depth + 1]] = shown
        elif child is None and isinstance(parent, dict):
            child = parent[str(step)] = {}
            tree.origins.setdefault(path[: depth + 1], shown)
        parent = child
    last = path[-1]
    if isinstance(parent, list) and isinstance(last, int) and last < len(parent):
        parent[last] = value
    elif isinstance(parent, dict):
        parent[str(last)] = value
    else:
        raise ConfigError(
            [Problem(shown, f"nothing to set: there is no {'.'.join(map(str, path[:-1]))} with such a part")]
        )


def _child(parent: Any, step: str | int) -> Any:
    if isinstance(parent, list):
        return parent[step] if isinstance(step, int) and step < len(parent) else None
    return parent.get(str(step)) if isinstance(parent, dict) else None
