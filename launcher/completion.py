"""What a shell offers on Tab: recipes, clusters, runs, and the keys and values of overrides.

It must answer at once, so nothing here imports the schema: configs/keys.json has its keys (docs/make_commands.py writes
it). Whatever goes wrong, nothing is offered; a shell has no place for messages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

Key = Mapping[str, Any]  # of keys.json: values, keys, choices, default
_RUNS = Path("runs")
_MOST_RUNS = 50  # the newest
_CLUSTER = "cluster."


def complete_recipe(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer recipes as long as none is named, then keys and values of overrides."""
    words = _joined(ctx.params.get("arguments") or [])
    offered: list[str] = []
    with suppress(Exception):
        recipe = next((word for word in words if "=" not in word), None)
        if words and "=" not in words[-1] and _node(_keys(), words[-1]) and len(words) > 1:
            return _values_of(words[-1], words, incomplete)  # `key=` in bash, which takes the words apart at `=`
        if recipe is None and "=" not in incomplete and not ctx.params.get("resume"):
            offered += _yaml_files("recipes", incomplete)
        if recipe is not None or "=" in incomplete or ctx.params.get("resume"):
            offered += complete_override(words, incomplete)
    return offered


def complete_overrides(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer keys and values of overrides, where the recipe is that of a run."""
    words = _joined(ctx.params.get("overrides") or [])
    with suppress(Exception):
        if words and "=" not in words[-1] and _node(_keys(), words[-1]):
            return _values_of(words[-1], words, incomplete)
        return complete_override(words, incomplete)
    return []


def complete_cluster(incomplete: str) -> list[str]:
    """Offer cluster files: the shipped ones, and those of this folder."""
    with suppress(Exception):
        return _yaml_files("clusters", incomplete)
    return []


def complete_run(incomplete: str) -> list[str]:
    """Offer `latest` and the newest runs, the newest first."""
    return [*(["latest"] if "latest".startswith(incomplete) else []), *complete_run_folder(incomplete)]


def complete_run_folder(incomplete: str) -> list[str]:
    """Offer the newest runs, the newest first."""
    with suppress(Exception):
        found = [file.parent for file in _RUNS.glob("*/job.yaml") if str(file.parent).startswith(incomplete)]
        found.sort(key=lambda folder: (folder / "job.yaml").stat().st_mtime, reverse=True)
        return [str(folder) for folder in found[:_MOST_RUNS]]
    return []


def complete_override(words: Sequence[str], incomplete: str) -> list[str]:
    """Return what `incomplete` may become: keys one level at a time, and of a key that is whole its values.

    >>> complete_override(["digits"], "batch.mi")
    ['batch.micro_batch=', 'batch.micro_batch=32']
    >>> complete_override(["optimizer=lamb"], "optimizer.b")[:2]
    ['optimizer.base_learning_rate=', 'optimizer.base_batch=']
    """
    key, equals, value = incomplete.partition("=")
    if equals:
        return [f"{key}={word}" for word in _values_of(key, words, value)]
    return list(_keys_at(key, words))


def _keys_at(typed: str, words: Sequence[str]) -> Iterator[str]:
    prefix, _, start = typed.rpartition(".")
    lead = f"{prefix}." if prefix else ""
    matching = {name: node for name, node in _below(prefix, words).items() if name.startswith(start)}
    for name, node in matching.items():
        is_alone = len(matching) == 1
        path = f"{lead}{name}"
        if "keys" in node or node.get("choices"):
            yield from _keys_at(f"{path}.", words) if is_alone else [f"{path}."]
        if "keys" not in node or node.get("values"):
            yield f"{path}="
            if is_alone:  # with a second word to choose from the shell puts no space behind `key=`
                yield from (f"{path}={word}" for word in _values_of(path, words, ""))


def _below(path: str, words: Sequence[str]) -> dict[str, Key]:
    """Return the keys below a path; of a choice those of the one that is chosen, or of all where none is known."""
    if not path:
        return {**_keys()["recipe"], "cluster": {"keys": _keys()["cluster"]}}
    node = _node(_keys(), path, words)
    if node is None:
        return {}
    if "choices" not in node:
        found: dict[str, Key] = node.get("keys", {})
        return found
    choices = node["choices"]
    chosen = _chosen(path, words)
    named = [choices[chosen]] if chosen in choices else choices.values()
    return {"name": {"values": list(choices)}, **{key: below for one in named for key, below in one.items()}}


def _node(keys: Key, path: str, words: Sequence[str] = ()) -> Key | None:
    parts = path.split(".")
    node: Key = {"keys": {**keys["recipe"], "cluster": {"keys": keys["cluster"]}}}
    for depth, part in enumerate(parts):
        below = _below(".".join(parts[:depth]), words) if depth else node["keys"]
        if part not in below:
            return None
        node = below[part]
    return node


def _values_of(path: str, words: Sequence[str], start: str) -> list[str]:
    """Return the values that a key takes, or the one that it has, where any will do."""
    node = _node(_keys(), path, words) or {}
    values = [*node.get("choices", ()), *node.get("values", ())]
    told = _told(path, words)
    shown = [
        str(value) for value in (told, node.get("default")) if value is not None and not isinstance(value, dict | list)
    ]
    return [value for value in dict.fromkeys([*values, *shown]) if value.startswith(start)]


def _chosen(path: str, words: Sequence[str]) -> str | None:
    """Return the name of the choice that recipe and overrides make, or the default; None for a file nobody has read."""
    told = _told(path, words)
    name = told.get("name") if isinstance(told, dict) else told
    if name is None and _has_recipe(words) and not path.startswith(_CLUSTER):
        name = (_node(_keys(), path, words) or {}).get("default")
    return None if name is None else str(name)


def _told(path: str, words: Sequence[str]) -> Any:  # Any: of YAML
    """Return what the recipe and the overrides so far say for a key; cluster files are not read."""
    from megabatch.configs.files import layered_tree
    from megabatch.configs.layers import apply_override
    from megabatch.configs.yaml_tree import Tree

    tree = Tree()
    with suppress(ValueError):
        if _has_recipe(words):
            tree = layered_tree(next(word for word in words if "=" not in word), "recipes")
    for word in words:
        with suppress(ValueError):
            apply_override(tree, word)
    values: Any = tree.values
    for part in path.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _has_recipe(words: Sequence[str]) -> bool:
    return any("=" not in word for word in words)


def _joined(words: Sequence[str]) -> list[str]:
    """Put `key = value` together again, which bash has taken apart.

    >>> _joined(["digits", "optimizer", "=", "lamb", "epochs"])
    ['digits', 'optimizer=lamb', 'epochs']
    """
    joined: list[str] = []
    for number, word in enumerate(words):
        after_equals = number > 0 and words[number - 1] == "="
        if word == "=" and joined:
            continue
        if after_equals and joined:
            joined[-1] = f"{joined[-1]}={word}"
        else:
            joined.append(word)
    return joined


def _yaml_files(kind: str, incomplete: str) -> list[str]:
    """Return the shipped names, and the YAML files below what is typed, folders with a slash behind them."""
    from megabatch.configs.files import shipped

    folder = Path(incomplete).parent if not incomplete.endswith("/") else Path(incomplete)
    here = [
        f"{path}/" if path.is_dir() else str(path) for path in sorted(folder.iterdir()) if not path.name.startswith(".")
    ]
    files = [path for path in here if path.endswith((".yaml", ".yml", "/"))]
    return [word for word in (*shipped(kind), *files) if word.startswith(incomplete)]


def _keys() -> dict[str, Any]:
    from importlib import resources

    text = resources.files("megabatch.configs").joinpath("keys.json").read_text(encoding="utf-8")
    keys: dict[str, Any] = json.loads(text)
    return keys
