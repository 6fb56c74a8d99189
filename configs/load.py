"""YAML files and key=value overrides to a validated Recipe, Cluster or Job. Every user mistake in them ends here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from megabatch.configs import machine
from megabatch.configs.base import EnvironmentAllowed
from megabatch.configs.cluster import Cluster
from megabatch.configs.errors import ConfigError, Problem, nearest, shortened
from megabatch.configs.explain import dotted, explain
from megabatch.configs.job import Job
from megabatch.configs.layers import apply_override, merge
from megabatch.configs.recipe import Recipe
from megabatch.configs.schema_walk import metadata_at
from megabatch.configs.yaml_tree import KeyPath, Tree, read_tree

Schema = TypeVar("Schema", bound=BaseModel)
MAX_BASES = 20
_ENVIRONMENT = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True)
class Loaded:
    """A validated recipe and cluster, and the trees they came from (for `config show --origin`)."""

    recipe: Recipe
    cluster: Cluster
    recipe_tree: Tree
    cluster_tree: Tree


def load(recipe: str, cluster: str, overrides: Sequence[str] = ()) -> Loaded:
    """Load both files by path or shipped name. Raises ConfigError with all problems of both."""
    problems: list[Problem] = []
    for_cluster = [text.removeprefix("cluster.") for text in overrides if text.startswith("cluster.")]
    for_recipe = [text for text in overrides if not text.startswith("cluster.")]
    recipe_tree = _collect(problems, lambda: layered_tree(recipe, "recipes", for_recipe))
    cluster_tree = _collect(problems, lambda: layered_tree(cluster, "clusters", for_cluster, "cluster."))
    loaded_recipe = _collect(problems, lambda: validate(Recipe, recipe_tree)) if recipe_tree else None
    loaded_cluster = _collect(problems, lambda: validate_cluster(cluster_tree)) if cluster_tree else None
    if problems or loaded_recipe is None or loaded_cluster is None:
        raise ConfigError(problems)
    assert recipe_tree is not None
    assert cluster_tree is not None
    return Loaded(loaded_recipe, loaded_cluster, recipe_tree, cluster_tree)


def read_job(file: Path) -> Job:
    """Read RUN_DIR/job.yaml. Raises ConfigError."""
    if not file.is_file():
        raise ConfigError(
            [Problem(str(file), "no such file: a run folder has a job.yaml (megabatch launch writes it)")]
        )
    return validate(Job, read_tree(file, str(file)))


def shipped(kind: str) -> dict[str, Path]:
    """Return the shipped files of a kind ("recipes" or "clusters") by name."""
    folder = resources.files(f"megabatch.configs.{kind}")
    files = sorted(Path(str(entry)) for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    return {file.stem: file for file in files}


def find_file(name: str, kind: str, nearby: Path | None = None) -> Path:
    """Return the YAML file that `name` means: a path (from here, or from `nearby`), or the name of a shipped one."""
    for candidate in (Path(name), nearby / name if nearby else None):
        if candidate is not None and candidate.suffix in (".yaml", ".yml") and _is_file(candidate):
            return candidate
    if name in shipped(kind):
        return shipped(kind)[name]
    singular = kind.removesuffix("s")
    shown = shortened(name)
    if "/" in name or name.endswith((".yaml", ".yml")):
        raise ConfigError([Problem(shown, f"no such {singular} file. Shipped: {', '.join(shipped(kind))}.")])
    raise ConfigError(
        [Problem("", f"no {singular} is called {shown!r}. {nearest(name, shipped(kind))} Or give a path.")]
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # longer than a name can be
        return False


def layered_tree(name: str, kind: str, overrides: Iterable[str] = (), prefix: str = "") -> Tree:
    """Read a file, the files its `base:` key leads to, and apply the overrides on top."""
    tree = _with_bases(find_file(name, kind), kind, seen=())
    problems: list[Problem] = []
    for override in overrides:
        _collect(problems, lambda text=override: apply_override(tree, text, prefix))
    if problems:
        raise ConfigError(problems)
    return tree


def _with_bases(file: Path, kind: str, seen: tuple[Path, ...]) -> Tree:
    tree = read_tree(file, _shown(file, kind))
    base = tree.values.pop("base", None)
    where = tree.origin(("base",))
    tree.forget(("base",))
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ConfigError([Problem(where, f"base: {shortened(repr(base))}: write the name or path of one file")])
    if file.resolve() in seen or len(seen) >= MAX_BASES:
        raise ConfigError([Problem(where, f"base: {shortened(base)} leads back to this file: break the circle")])
    try:
        base_file = find_file(base, kind, nearby=file.parent)
    except ConfigError as error:
        raise ConfigError([Problem(where, f"base: {error.problems[0].message}")]) from None
    return merge(_with_bases(base_file, kind, (*seen, file.resolve())), tree)


def _shown(file: Path, kind: str) -> str:
    """Return how messages name the file: `digits (shipped)` for one of ours, its path for a user's."""
    return f"{file.name} (shipped)" if shipped(kind).get(file.stem) == file else str(file)


def validate(schema: type[Schema], tree: Tree) -> Schema:
    """Replace `${env:NAME}` and check the tree against the schema, strictly. Raises ConfigError with every problem."""
    problems: list[Problem] = []
    tree.values = _expand(schema, tree, tree.values, (), problems)
    try:
        result = schema.model_validate(_with_tuples(tree.values))
    except ValidationError as error:
        raise ConfigError([*problems, *explain(error, schema, tree)]) from None
    if problems:
        raise ConfigError(problems)
    return result


def validate_cluster(tree: Tree) -> Cluster:
    """Put what this machine has where the cluster file says `auto`, and check it. Raises ConfigError."""
    key = machine.automatic_key_for_others(tree.values)
    if key is not None:
        seen = f"{key}: auto is what this machine has, and the ranks run on others. Write what they have"
        raise ConfigError([Problem(tree.origin((key,)), seen)])
    tree.values = machine.with_numbers(tree.values, machine.gpus(os.environ), machine.cores())
    return validate(Cluster, tree)


def _with_tuples(value: Any) -> Any:
    """Return the values with tuples for lists: the schema is frozen, and strict about the difference."""
    if isinstance(value, dict):
        return {key: _with_tuples(child) for key, child in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _expand(schema: type[BaseModel], tree: Tree, value: Any, path: KeyPath, problems: list[Problem]) -> Any:
    if isinstance(value, dict):
        return {key: _expand(schema, tree, child, (*path, key), problems) for key, child in value.items()}
    if isinstance(value, list):
        return [_expand(schema, tree, child, (*path, i), problems) for i, child in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value
    where = f"{dotted(path)}: {shortened(repr(value))}:"
    if not any(
        isinstance(m, EnvironmentAllowed) or m is EnvironmentAllowed for m in metadata_at(schema, tree.values, path)
    ):
        problems.append(
            Problem(tree.origin(path), f"{where} ${{env:NAME}} is not replaced in this key: write the value")
        )
        return value
    for name in _ENVIRONMENT.findall(value):
        if name not in os.environ:
            problems.append(
                Problem(tree.origin(path), f"{where} the environment variable {name} is not set: export it")
            )
    return _ENVIRONMENT.sub(lambda match: os.environ.get(match.group(1), ""), value)


def _collect(problems: list[Problem], action: Any) -> Any:
    """Run `action`; on a ConfigError keep its problems and return None, so that all of them are told at once."""
    try:
        return action()
    except ConfigError as error:
        problems.extend(error.problems)
        return None
