"""The text of an imported recipe: YAML, and before it the comments."""

from __future__ import annotations

import textwrap

from megabatch.configs.errors import shortened
from megabatch.launcher.render import yaml_text
from megabatch.launcher.timm_import.arguments import TRAIN_PY
from megabatch.launcher.timm_import.recipe import Imported

_WIDTH = 110
_LONGEST = 1000  # characters of the command that are repeated


def written(imported: Imported, source: str) -> str:
    """Return the recipe as text; no line of it is longer than a screen."""
    lines = [
        f"The arguments of timm's train.py ({TRAIN_PY}) as a recipe: docs/from-timm.md",
        *_wrapped(shortened(" ".join(source.split()), _LONGEST), "  "),
        "",
        *imported.first,
    ]
    if imported.told:
        lines += ["", "Not the same here:"]
        for told in imported.told:
            lines += _wrapped(told, "  ")
    comments = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    return comments + "\n" + yaml_text(imported.values, leaves_inline=True)


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False)
