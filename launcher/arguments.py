"""Arguments that several commands share, and how a command ends on a mistake in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NoReturn, TypeVar

import typer

from megabatch.launcher.completion import complete_cluster, complete_recipe, complete_run

RecipeArguments = Annotated[
    list[str],
    typer.Argument(
        metavar="RECIPE|KEY=VALUE", help="Name or path of a recipe, then overrides.", autocompletion=complete_recipe
    ),
]
ClusterOption = Annotated[
    str, typer.Option("--cluster", "-c", help="Name or path of a cluster file.", autocompletion=complete_cluster)
]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN_DIR|latest", help="Folder of the run.", autocompletion=complete_run)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print as JSON; everything else goes to stderr.")]
DEFAULT_CLUSTER = "laptop"
Result = TypeVar("Result")


def split(arguments: list[str], required: bool = True) -> tuple[str, list[str]]:
    """Tell the recipe from the overrides: an override has an equals sign."""
    names = [text for text in arguments if "=" not in text]
    overrides = [text for text in arguments if "=" in text]
    if len(names) > 1 or (required and not names):
        seen = f"got {', '.join(names)}" if names else "none was given"
        fail(f"one recipe is needed, {seen}. `megabatch config list` names the shipped ones; overrides are key=value")
    return (names[0] if names else ""), overrides


def or_exit(action: Callable[[], Result]) -> Result:
    """Run an action; a user's mistake ends the command with its message and exit code 2."""
    from megabatch.configs.errors import ConfigError, shortened
    from megabatch.data.errors import DataError

    try:
        return action()
    except ConfigError as error:
        fail(*map(str, error.problems))
    except DataError as error:
        fail(str(error))
    except OSError as error:
        path = shortened(str(error.filename or "input or output"))
        fail(f"{path}: {error.strerror or error}. Correct it, or name another path")


def fail(*messages: str) -> NoReturn:
    """End the command with exit code 2."""
    for message in messages:
        typer.echo(f"error: {message}", err=True)
    raise typer.Exit(2)


def or_exit_study(action: Callable[[], Result]) -> Result:
    """Run an action that starts ranks; where they end without a result, end the command as they did."""
    from megabatch.launcher.study.process import StudyFailedError
    from megabatch.launcher.supervise import ExitCode

    try:
        return or_exit(action)
    except StudyFailedError as error:
        stopped = error.ending.code == ExitCode.STOPPED
        typer.echo(str(error) if stopped else f"error: {error}", err=True)
        raise typer.Exit(error.ending.code) from None
