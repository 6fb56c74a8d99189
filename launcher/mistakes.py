"""How a command ends on a user's mistake: one line on stderr and exit code 2, no traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer


@contextmanager
def mistakes_told() -> Iterator[None]:
    """Turn DataError, OSError and Ctrl-C into messages."""
    from megabatch.data.errors import DataError

    try:
        yield
    except DataError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or 'input or output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        typer.echo("interrupted: nothing of it is used; start it again", err=True)
        raise typer.Exit(130) from None


def fail(message: str) -> NoReturn:
    """End the command."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(2)
