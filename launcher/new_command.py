"""`megabatch new`: writes a starter project. Reads arguments, copies, prints what to do next."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from megabatch.launcher.mistakes import fail, mistakes_told

FILES = ("README.md", "recipe.yaml", "cluster.yaml", "my_model.py", "my_transforms.py", "test_project.py")


def new(folder: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty folder.")]) -> None:
    """Write a project that runs: recipe, cluster file, a network and an augmentation of its own, and a test.

    It trains on handwritten digits until its recipe names other data.
    """
    from importlib import resources

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        fail(f"{folder}: is not an empty folder, and nothing in it is overwritten. Name a new one")
    shipped = resources.files("megabatch.launcher.new_project")
    with mistakes_told():
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (folder / name).write_text(shipped.joinpath(name).read_text(encoding="utf-8"), encoding="utf-8")
    typer.echo(f"written: {', '.join(FILES)}")
    steps = [
        f"cd {shlex.quote(str(folder))}",
        "megabatch data example digits-images",
        "megabatch data import digits-images data/digits --split train=0.8,validation=0.1,test=0.1",
        "megabatch launch recipe.yaml --cluster cluster.yaml",
    ]
    typer.echo("next:\n" + "\n".join(f"  {step}" for step in steps))
