"""What a backend makes of a job: a value that can be shown, compared and, at last, carried out."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

from typing_extensions import override


@dataclass(frozen=True)
class Submission:
    """The exact command, the variables added to its environment, and the script it submits with the file it reads."""

    argv: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    script: str | None = None
    environment_file: str = ""

    @override
    def __str__(self) -> str:
        """Return what a person could paste into a shell; for a scheduler, the script itself."""
        variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.environment.items())
        command = shlex.join(self.argv)
        shown = f"{variables} {command}" if variables else command
        if self.script is None:
            return shown
        return f"{shown}\n\n{self.script}\n# RUN_DIR/job.environment, which only you can read\n{self.environment_file}"
