"""`megabatch cluster`: cluster files out of what other launchers have."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from megabatch.launcher.arguments import or_exit
from megabatch.launcher.help_text import examples
from megabatch.launcher.mistakes import fail, mistakes_told

app = typer.Typer(help="Make cluster files.", no_args_is_help=True, rich_markup_mode=None)


class DeviceChoice(StrEnum):
    """What a rank computes on."""

    CPU = "cpu"
    CUDA = "cuda"


@app.callback()
def common() -> None:
    """Make `import` a command of its own, though it is the only one."""


@app.command(name="import", epilog=examples("megabatch cluster import hostfile --output my-cluster.yaml"))
def import_(
    file: Annotated[Path, typer.Argument(help="An accelerate config (.yaml), or a hostfile of DeepSpeed or MPI.")],
    output: Annotated[Path | None, typer.Option(help="New cluster file (default: print it).")] = None,
    ranks_per_host: Annotated[int | None, typer.Option(min=1, help="Where the hostfile names no slots.")] = None,
    device: Annotated[DeviceChoice | None, typer.Option(help="For a hostfile (default: cuda).")] = None,
) -> None:
    """Write the cluster file that says the same, and tell what in the file belongs elsewhere."""
    from megabatch.launcher.cluster_import import imported
    from megabatch.launcher.render import yaml_text

    found = or_exit(lambda: imported(file, ranks_per_host, None if device is None else device.value))
    for line in found.told:
        typer.echo(f"note: {line}", err=True)
    if output is None:
        typer.echo(yaml_text(found.values), nl=False)
        return
    if output.exists():
        fail(f"{output} is there already: choose another --output")
    with mistakes_told():
        output.write_text(yaml_text(found.values), encoding="utf-8")
