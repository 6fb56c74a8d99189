"""`megabatch data inspect`: reads arguments, has data/grid.py draw in a process of its own (it needs torch)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from megabatch.launcher.mistakes import fail


def inspect(
    location: Annotated[str, typer.Argument(metavar="DATASET", help="Folder, spec or URL of a data set.")],
    recipe: Annotated[str, typer.Argument(help="Recipe whose train_transforms are shown too.")] = "",
    split: Annotated[str, typer.Option(help="Split to take samples of.")] = "train",
    count: Annotated[int, typer.Option(min=1, max=500, help="Number of samples.")] = 16,
    epochs: Annotated[int, typer.Option(min=1, max=8, help="With a recipe: epochs to show of each sample.")] = 3,
    seed: Annotated[int | None, typer.Option(help="Decides which samples (default: the recipe's seed).")] = None,
    out: Annotated[Path, typer.Option(help="File to write: .html or .png.")] = Path("samples.html"),
) -> None:
    """Show samples before and after augmentation, as a page or a picture."""
    if out.suffix.lower() not in (".html", ".png"):
        fail(f"--out {out}: name a .html or .png file")
    options = ["--split", split, "--count", str(count), "--epochs", str(epochs)]
    options += ["--recipe", recipe] if recipe else []
    options += ["--seed", str(seed)] if seed is not None else []
    command = [sys.executable, "-m", "megabatch.data.grid", *options, "--", location, str(out)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        typer.echo(done.stderr.rstrip(), err=True)
        raise typer.Exit(done.returncode)
    typer.echo(f"written: {out}")
