"""YAML files and key=value overrides to a validated Recipe, Cluster or Job. Every user mistake in them ends here."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from megabatch.configs import machine
from megabatch.configs.base import EnvironmentAllowed
from megabatch.configs.cluster import Cluster
from megabatch.configs.errors import ConfigError, Problem, shortened
from megabatch.configs.explain import dotted, explain
from megabatch.configs.files import find_file as find_file
from megabatch.configs.files import layered_tree as layered_tree
from megabatch.configs.files import shipped as shipped
from megabatch.configs.job import Job
from megabatch.configs.recipe import Recipe
from megabatch.configs.schema_walk import metadata_at
from megabatch.configs.yaml_tree import KeyPath, Tree, read_tree

Schema = TypeVar("Schema", bound=BaseModel)
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
