"""What a backend makes of a job: a value that can be shown, compared and, at last, carried out."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from typing_extensions import override

from megabatch.configs.new_file import write_new


@dataclass(frozen=True)
class Submission:
    """The exact command, the variables added to its environment, and the script it submits with the file it reads."""

    argv: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    script: str | None = None
    environment_file: str = ""
    """What the script reads its variables from."""
    files: Mapping[Path, str] = field(default_factory=dict)
    """What the command reads, to be written before it runs."""
    trainer_arguments: Sequence[str] = ()
    """What the ranks are told beside their job, where the commands are only made when the hosts are known."""
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
        if self.script is None:
            return shown
        return f"{shown}\n\n{self.script}\n# RUN_DIR/job.environment, which only you can read\n{self.environment_file}"

    def write_files(self) -> None:
        """Write the files that the command reads."""
        for file, text in self.files.items():
            write_new(file, text)


def shown_on_hosts(
    hosts: Sequence[str], commands: Sequence[Sequence[str]], environment: Mapping[str, str], folder: str
) -> str:
    """Return what to paste into a shell on each host, in a folder that all of them have."""
    return "\n\n".join(
        f"# on {host}\ncd {shlex.quote(folder)} && {Submission(list(command), dict(environment))}"
        for host, command in zip(hosts, commands, strict=True)
    )
