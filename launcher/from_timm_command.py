"""`megabatch config from-timm`: the arguments of timm's train.py as a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from megabatch.launcher.arguments import fail, or_exit


def from_timm(
    command: Annotated[
        str | None, typer.Argument(metavar="'COMMAND'", help="The command that starts train.py, in quotes.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="ARGS.YAML", help="The args.yaml that train.py saved, instead of a command.")
    ] = None,
    ranks: Annotated[
        int | None, typer.Option(min=1, help="Processes that it ran with (default: what the command says, or 1).")
    ] = None,
) -> None:
    """Print the recipe that the arguments of timm's train.py come to; comments say what is not the same here."""
    from megabatch.launcher.timm_import.read import read_command, read_file
    from megabatch.launcher.timm_import.recipe import recipe
    from megabatch.launcher.timm_import.write import written

    if (command is None) == (file is None):
        fail("give the command in quotes, or --file args.yaml")
    if command is not None:
        text = or_exit(lambda: written(recipe(*read_command(command, ranks)), command))
    else:
        assert file is not None
        text = or_exit(lambda: written(recipe(read_file(file, ranks), []), str(file)))
    typer.echo(text, nl=False)
