"""What `--help` says beside what each command says itself: the sections of `megabatch --help`, and examples.

Plain text: rich would take as long to import as all of `megabatch --help` takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from typer.core import TyperGroup
from typing_extensions import override

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter  # typer has its own copy of click

# Every command is in one of them, in the order in which a newcomer needs it; a test looks.
SECTIONS = {
    "Start here": ("new", "data", "plan", "launch", "status", "report"),
    "Runs": ("runs", "compare", "logs", "cancel", "drill", "sync"),
    "Trained networks": ("eval", "export", "soup", "ensemble", "fuse", "prune", "quantize"),
    "Find out what helps": ("tune", "ablate", "study"),
    "Machines and files": ("check", "cluster", "config"),
}
_LONGEST = 200  # characters of the first sentence of a command; it is wrapped
FIRST_STEPS = """\
\b
First steps:
  megabatch new mine                   a project that runs, in the folder mine
  megabatch plan recipe.yaml           what a recipe comes to
  megabatch launch recipe.yaml         train; epochs=3 and the like change a key
  megabatch COMMAND --help             what a command does, with examples

\b
Exit codes: 0 done, 1 failed, 2 a mistake in what you wrote, 3 stopped and
resumable, 130 interrupted. NO_COLOR=1 prints without colours.
"""


def examples(*commands: str) -> str:
    r"""Return the end of a command's help; the lines stay as they are.

    >>> examples("megabatch runs")
    '\x08\nExample:\n  megabatch runs'
    """
    return "\n".join(["\b", "Example:" if len(commands) == 1 else "Examples:", *(f"  {line}" for line in commands)])


class SectionedGroup(TyperGroup):
    """A group whose help lists its commands in `SECTIONS`."""

    @override
    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the sections; typer's own would be one list in the order of definition."""
        known = set(self.list_commands(ctx))
        widest = max(map(len, known))
        for title, names in SECTIONS.items():
            rows = [
                (name.ljust(widest), self.commands[name].get_short_help_str(_LONGEST))
                for name in names
                if name in known
            ]
            with formatter.section(title):
                formatter.write_dl(rows)
