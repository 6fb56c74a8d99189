"""The values of train.py's arguments, and the bookkeeping that none of them is dropped without a word."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from megabatch.configs.errors import shortened
from megabatch.launcher.timm_import.arguments import ARGUMENTS

Section = dict[str, Any]  # Any: plain YAML values


@dataclass
class Values:
    """What train.py would have after reading its arguments; `given` are those that somebody wrote, in their order.

    `take` says that a value has become part of the recipe, `note` that it has not, or means something else here.
    """

    values: dict[str, Any]  # Any: as train.py has them
    given: list[str]
    processes: int = 1
    notes: dict[str, str] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)

    def look(self, name: str) -> Any:
        """Return a value that decides something without being in the recipe itself."""
        return self.values[name]

    def take(self, name: str) -> Any:
        """Return a value that goes into the recipe."""
        self._taken.add(name)
        return self.values[name]

    def note(self, name: str, text: str) -> None:
        """Tell how an argument differs here, or why it has no counterpart. The last word about one holds."""
        self.notes[name] = text

    def told(self) -> list[str]:
        """Return a line for each argument that has no counterpart, another meaning, or no effect."""
        for name in self.given:
            if name in self._taken or name in self.notes:
                continue
            argument = ARGUMENTS[name]
            idle = "has no effect beside the other arguments, in timm neither"
            self.notes[name] = idle if argument.key else argument.why
        order = [*self.given, *(name for name in self.notes if name not in self.given)]
        return [f"{self._written(name)}: {self.notes[name]}" for name in order if name in self.notes]

    def _written(self, name: str) -> str:
        """Return the argument as it might stand in the command."""
        value, shown = self.values[name], ARGUMENTS[name].shown
        default = "" if name in self.given else " (timm's default)"
        if value is True:
            return shown
        if isinstance(value, dict):
            value = [f"{key}={part}" for key, part in value.items()]
        if not isinstance(value, list):
            value = [] if value is None else [str(value)]
        words = [part if isinstance(part, str) else json.dumps(part) for part in value]
        return shortened(" ".join([shown, *(word for word in words if word)]) + default)
