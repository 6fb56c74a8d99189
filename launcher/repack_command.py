"""`megabatch data repack`: reads arguments, calls data/repack.py, prints."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from megabatch.launcher.arguments import JsonOption
from megabatch.launcher.json_output import answer, json_alone
from megabatch.launcher.mistakes import mistakes_told
from megabatch.launcher.progress import progress_on_stderr


def repack(
    location: Annotated[str, typer.Argument(metavar="DATASET", help="Folder, spec or URL of a data set.")],
    out: Annotated[Path, typer.Argument(help="Folder for the smaller copy.")],
    max_size: Annotated[int, typer.Option(min=16, help="Longest side in pixels.")] = 512,
    quality: Annotated[int, typer.Option(min=1, max=100, help="JPEG quality.")] = 90,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads (default: one for each core).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier import in OUT.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Copy a data set with smaller JPEGs: fewer bytes, faster decoding. Lossy; the source stays as it is."""
    from megabatch.configs.cache import Cache
    from megabatch.data.repack import RepackOptions
    from megabatch.data.repack import repack as repack_dataset
    from megabatch.data.sources.open import open_dataset

    with json_alone(as_json):
        with mistakes_told(), progress_on_stderr("images") as progress:
            source = open_dataset(location, Path.cwd(), Cache(), progress)
            options = RepackOptions(max_size, quality, threads or len(os.sched_getaffinity(0)), overwrite)
            copy = repack_dataset(source, out, options, progress)
        before, after = (
            sum(shard.bytes for split in dataset.splits for shard in split.shards) for dataset in (source, copy)
        )
        answer(bytes_before=before, bytes_after=after, folder=str(out))
        typer.echo(f"{before:,} bytes became {after:,} ({after / before:.0%}) in {out}")
        typer.echo(f"next: megabatch launch RECIPE data.path={shlex.quote(str(out))}")
