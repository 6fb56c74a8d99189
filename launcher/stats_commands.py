"""`megabatch data stats`: reads arguments, calls data/stats.py, prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megabatch.launcher.arguments import JsonOption
from megabatch.launcher.mistakes import mistakes_told
from megabatch.launcher.progress import progress_on_stderr

if TYPE_CHECKING:
    from megabatch.data.stats import SplitStats


def stats(
    location: Annotated[str, typer.Argument(metavar="DATASET", help="Folder, spec or URL of a data set.")],
    split: Annotated[str, typer.Option(help="Only this split (default: all).")] = "",
    threads: Annotated[int | None, typer.Option(min=1, help="Decoding threads (default: one for each core).")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write (default: stats.json in the data set).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Mean and deviation of the channels, sizes, formats and class balance; `normalize: auto` uses them."""
    import os

    from megabatch.configs.cache import Cache
    from megabatch.data.sources.open import open_dataset
    from megabatch.data.stats import FILE_NAME, split_stats, write_stats

    with mistakes_told(), progress_on_stderr("shards") as progress:
        dataset = open_dataset(location, Path.cwd(), Cache(), progress)
        chosen = [dataset.split(split)] if split else [part for part in dataset.splits if part.samples]
        count = threads or len(os.sched_getaffinity(0))
        found = {part.name: split_stats(dataset, part, count, progress) for part in chosen}
        file = out or dataset.folder / FILE_NAME
        write_stats(dataset, found, file)
    if as_json:
        typer.echo(file.read_text(encoding="utf-8"), nl=False)
    else:
        _print(found)
        typer.echo(f"written: {file}")
    broken = [message for of_split in found.values() for message in of_split.broken]
    for message in broken:
        typer.echo(f"error: {message}", err=True)
    if broken:
        raise typer.Exit(1)


def _print(found: dict[str, SplitStats]) -> None:
    for name, of_split in found.items():
        values = of_split.to_json()
        typer.echo(f"{name}: {values['samples']:,} images, {values['bytes']:,} bytes, {json.dumps(values['formats'])}")
        typer.echo(f"  mean  {_channels(values['mean'])}")
        typer.echo(f"  std   {_channels(values['std'])}")
        for side in ("width", "height"):
            spread = values[side]
            typer.echo(f"  {side:<6} {spread['min']} to {spread['max']}, median {spread['median']}")
        if "classes" not in values:
            typer.echo("  no classes: the samples have another target")
            continue
        typer.echo(
            f"  {values['classes']:,} classes of {values['smallest_class']:,} to {values['largest_class']:,} images "
            f"(imbalance {values['imbalance']:.3g})"
        )


def _channels(values: list[float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in zip("RGB", values, strict=True))
