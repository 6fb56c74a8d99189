"""What a backend makes of a job: a value that can be shown, compared and, at last, carried out."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

from typing_extensions import override


@dataclass(frozen=True)
class Submission:
    """The exact command, the variables added to its environment, and the script it submits, if any."""

    argv: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    script: str | None = None
    shown: str | None = None
    """What to print instead, where it takes more than one command."""

    @override
    def __str__(self) -> str:
        """Return what a person could paste into a shell; for a scheduler, the script itself."""
        if self.shown is not None:
            return self.shown
        variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.environment.items())
        command = shlex.join(self.argv)
        shown = f"{variables} {command}" if variables else command
        return f"{shown}\n\n{self.script}" if self.script else shown
