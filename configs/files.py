"""Which YAML file a name means, and the files and overrides that are laid over it. Knows nothing of the schema.

Without pydantic, so that a shell's Tab is answered at once (launcher/completion.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from megabatch.configs.errors import ConfigError, Problem, nearest, shortened
from megabatch.configs.layers import apply_override, merge
from megabatch.configs.yaml_tree import Tree, read_tree

MAX_BASES = 20


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
        try:
            apply_override(tree, override, prefix)
        except ConfigError as error:
            problems += error.problems
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
