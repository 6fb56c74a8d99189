"""What is known of one argument of timm's train.py: how it is read, and what becomes of it here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["int", "float", "text", "switch", "pairs"]
_TYPES: dict[Kind, tuple[type, ...]] = {
    "int": (int,), "float": (int, float), "text": (str,), "switch": (bool,), "pairs": (dict,)
}  # fmt: skip


@dataclass(frozen=True)
class Argument:
    """`key` names what it becomes in a recipe; without one, `why` says why there is none. `many` is argparse's nargs.

    Some have both: then `why` is how the two differ.
    """

    flags: str
    kind: Kind = "text"
    default: Any = None  # Any: as train.py has it
    key: str = ""
    why: str = ""
    many: Literal["+", "?", 3] | None = None
    older: bool = False  # no longer in train.py, but in args.yaml files of earlier versions

    @property
    def names(self) -> list[str]:
        """Return the flags, or the name of the positional argument."""
        return self.flags.split()

    @property
    def shown(self) -> str:
        """Return the long flag, as messages name it."""
        return next((name for name in self.names if name.startswith("--")), self.flags)

    @property
    def dest(self) -> str:
        """Return its name in args.yaml."""
        return self.shown.lstrip("-").replace("-", "_")

    def fits(self, value: object) -> bool:
        """Return whether a value of an args.yaml file is of the kind that train.py would take."""
        if value is None or value == self.default:
            return True
        if self.many in ("+", 3):
            return isinstance(value, list) and bool(value) and all(self._fits(part) for part in value)
        return self._fits(value)

    def _fits(self, value: object) -> bool:
        if isinstance(value, float) and not math.isfinite(value):
            return False
        return isinstance(value, _TYPES[self.kind]) and (self.kind == "switch" or not isinstance(value, bool))
