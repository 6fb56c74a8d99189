"""YAML 1.2 text to plain values, with the place every value came from. Knows nothing of recipes.

Only mappings with text keys, lists and plain scalars exist here: no tags, no dates, no objects, no aliases that grow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from typing_extensions import override

from megabatch.configs.errors import ConfigError, Problem

KeyPath = tuple[str | int, ...]
MAX_FILE_BYTES = 1_000_000
MAX_VALUES = 20_000  # an alias bomb has billions
MAX_DEPTH = 40
_MAX_KEY = 256  # characters
_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null")}
_TOO_DEEP = f"values inside values, more than {MAX_DEPTH} deep: write fewer"
_CONTAINER_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("map", "seq")}
_NO_CHARACTER = re.compile(r"[\0\ud800-\udfff]")  # no file name and no variable can have them
_TIMESTAMP = "tag:yaml.org,2002:timestamp"


@dataclass
class Tree:
    """Nested dicts and lists, and where each key path was written ("file:line:column", or "command line")."""

    values: dict[str, Any] = field(default_factory=dict)  # Any: whatever the file says, checked by the schema
    origins: dict[KeyPath, str] = field(default_factory=dict)

    def origin(self, path: KeyPath) -> str:
        """Return the place of `path`, or of the nearest enclosing key that has one."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return ""

    def forget(self, path: KeyPath) -> None:
        """Drop the origins of `path` and everything below it."""
        for known in [known for known in self.origins if known[: len(path)] == path]:
            del self.origins[known]


def read_tree(file: Path, shown_name: str) -> Tree:
    """Read one YAML file whose top level is a mapping. Raises ConfigError with file:line:column."""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(
                [Problem(shown_name, f"larger than {MAX_FILE_BYTES:,} bytes: not a recipe or cluster file")]
            )
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(shown_name, f"not UTF-8 text (byte {error.start}): save it as UTF-8")]) from None
    except OSError as error:
        raise ConfigError([Problem(shown_name, f"cannot be read: {error.strerror}")]) from None
    tree = parse_tree(text, shown_name)
    if not isinstance(tree.values, dict):
        raise ConfigError([Problem(shown_name, "the top level is not a mapping: write `key: value` lines")])
    return tree


def parse_tree(text: str, shown_name: str) -> Tree:
    """Parse YAML text. An empty text is an empty mapping."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _Composer
    try:
        node = yaml.compose(text)
        tree = Tree(origins={(): shown_name})
        if node is not None:
            del tree.origins[()]  # the reader knows its line
            tree.values = _Reader(shown_name, yaml, tree).convert(node, ())
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{shown_name}:{mark.line + 1}:{mark.column + 1}" if mark else shown_name
        raise ConfigError([Problem(where, f"not valid YAML: {error.problem}")]) from None
    except (YAMLError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError([Problem(shown_name, f"not valid YAML: {str(error).splitlines()[0]}")]) from None
    return tree


class _Composer(Composer):
    """Stops at values that are nested too deeply, before Python's stack ends."""

    warn_double_anchors = False
    depth = 0

    @override
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.depth > MAX_DEPTH:
            raise ComposerError(None, None, _TOO_DEEP, self.parser.peek_event().start_mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _Reader:
    """Turns composed nodes into plain values and records where they stood."""

    def __init__(self, shown_name: str, yaml: YAML, tree: Tree):
        self.shown_name = shown_name
        self.constructor = yaml.constructor
        self.tree = tree
        self.count = 0
        self.open_nodes: set[int] = set()

    def convert(self, node: Node, path: KeyPath) -> Any:  # Any: the value of any YAML node
        self.count += 1
        if self.count > MAX_VALUES or id(node) in self.open_nodes:
            raise self._error(node, "aliases (&name, *name) expand without end: write the values out")
        if not isinstance(node, ScalarNode) and str(node.tag) not in _CONTAINER_TAGS:
            raise self._error(node, f"the tag {node.tag} is not allowed: write a plain value")
        self.tree.origins.setdefault(path, self._place(node))
        self.open_nodes.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return self._mapping(node, path)
            if isinstance(node, SequenceNode):
                return [self.convert(child, (*path, i)) for i, child in enumerate(node.value)]
            assert isinstance(node, ScalarNode)
            return self._scalar(node)
        finally:
            self.open_nodes.discard(id(node))

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            if key in result:
                raise self._error(key_node, f"the key {key} is here twice: keep one")
            self.tree.origins[(*path, key)] = self._place(key_node)
            result[key] = self.convert(value_node, (*path, key))
        return result

    def _key(self, node: Node) -> str:
        if not isinstance(node, ScalarNode):
            raise self._error(node, "a list or mapping as a key: write a plain word")
        key = str(node.value)
        if not key.isprintable() or len(key) > _MAX_KEY:
            raise self._error(node, f"a key with control characters, or more than {_MAX_KEY} long: write a plain word")
        return key

    def _scalar(self, node: ScalarNode) -> Any:
        if node.tag is not None and str(node.tag) == _TIMESTAMP:
            return node.value
        if str(node.tag) not in _PLAIN_TAGS:
            raise self._error(node, f"the tag {node.tag} is not allowed: write a plain value")
        try:
            value = self.constructor.construct_object(node)
        except (ValueError, LookupError):
            raise self._error(
                node, f"{node.value!r:.100} is no value of the tag {node.tag}: leave out the tag"
            ) from None
        if isinstance(value, str) and _NO_CHARACTER.search(value):
            raise self._error(node, "a text with a NUL, or half of a surrogate pair: leave it out")
        return value if isinstance(value, str | int | float | bool | None) else str(node.value)

    def _place(self, node: Node) -> str:
        return f"{self.shown_name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"

    def _error(self, node: Node, message: str) -> ConfigError:
        return ConfigError([Problem(self._place(node), message)])
