"""`megabatch data clean`: reads arguments, lets the data room look, prints what was found and where it lies."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megabatch.launcher.arguments import JsonOption
from megabatch.launcher.mistakes import fail, mistakes_told
from megabatch.launcher.progress import progress_on_stderr

if TYPE_CHECKING:
    from megabatch.data.clean.clean import Cleaned

_ANY = "any"
_REFUSED = ("image_missing", "label_missing", "label_not_integer", "label_outside")  # by the index, or by a launch


def clean(
    folder: Annotated[Path, typer.Argument(metavar="DATASET", help="Folder of a data set, or of .tar shards.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the report (default: DATASET/clean).")] = None,
    mask_kinds: Annotated[
        str, typer.Option(metavar="KIND,...", help="What the mask leaves out, besides what would stop training.")
    ] = "leak,duplicate",
    write: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also write shards without the masked samples.")
    ] = None,
    fail_on: Annotated[str, typer.Option(metavar="KIND,...", help="Exit with 1 if there are any of these.")] = "",
    max_pixels: Annotated[int, typer.Option(min=1, help="As data.max_image_pixels of the recipe.")] = 100_000_000,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: as many as processors.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Find broken, repeated and unusual images and wrong labels; write a report and a mask. Shards stay as they are."""
    from megabatch.data.clean.clean import CleanOptions, clean_dataset
    from megabatch.data.clean.kinds import BY_NAME
    from megabatch.data.clean.write import write_clean_shards
    from megabatch.data.importer import require_room

    masked_kinds = _kinds("--mask-kinds", mask_kinds, BY_NAME)
    failing_kinds = _kinds("--fail-on", fail_on, {*BY_NAME, _ANY})
    options = CleanOptions(masked_kinds, max_pixels, threads or len(os.sched_getaffinity(0)))
    target = out or folder / "clean"
    with mistakes_told():
        if write is not None:
            require_room(write)
        with progress_on_stderr("bytes") as progress:
            cleaned = clean_dataset(folder, target, options, progress)
        if write is not None:
            with progress_on_stderr("samples") as progress:
                write_clean_shards(cleaned.scan, cleaned.mask, write, progress)
    if as_json:
        files = {"report": str(target / "report.html"), "mask": str(target / "mask.json")}
        typer.echo(json.dumps({**cleaned.summary, **files}))
    else:
        _print(cleaned, target, write)
    found = set(cleaned.summary["counts"])
    if failing_kinds & found or (_ANY in failing_kinds and found):
        raise typer.Exit(1)


def _kinds(option: str, text: str, allowed: Collection[str]) -> set[str]:

    kinds = {part.strip() for part in text.split(",") if part.strip()}
    unknown = sorted(kinds - set(allowed))
    if unknown:
        fail(f"{option}: no kind is called {', '.join(unknown)}: write some of {', '.join(allowed)}")
    return kinds


def _print(cleaned: Cleaned, target: Path, written: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    head = cleaned.summary
    table = Table("kind", *head["samples"], "masked", box=None, pad_edge=False)
    for kind, counts in head["counts"].items():
        masked = "yes" if kind in head["settings"]["mask_kinds"] else ""
        table.add_row(kind, *(f"{count:,}" for count in counts.values()), masked)
    console = Console(markup=False)
    console.print(f"{head['dataset']}: {len(cleaned.scan.keys):,} samples", highlight=False, soft_wrap=True)
    if head["counts"]:
        console.print(table)
    else:
        typer.echo("nothing found")
    typer.echo(f"report: {target / 'report.html'}")
    typer.echo(f"mask: {target / 'mask.json'} leaves out {_masked(head)}")
    if set(head["counts"]) - set(head["settings"]["mask_kinds"]):
        typer.echo("more can be left out with --mask-kinds, after a look at the report")
    _print_next(cleaned, target, written)


def _masked(head: dict[str, Any]) -> str:
    shares = [f"{count:,} of {head['samples'][split]:,} in {split}" for split, count in head["masked"].items() if count]
    return ", ".join(shares) or "nothing"


def _print_next(cleaned: Cleaned, target: Path, written: Path | None) -> None:
    head = cleaned.summary
    folder = shlex.quote(head["dataset"])
    if written is not None:
        typer.echo(f"next: megabatch launch RECIPE data.path={shlex.quote(str(written))}")
        return
    if refused := [kind for kind in _REFUSED if kind in head["counts"]]:
        kinds = ", ".join(refused)
        typer.echo(f"note: a data set with {kinds} is refused before any mask is looked at: write a clean one")
        typer.echo(f"next: megabatch data clean {folder} --write FOLDER")
        return
    if not cleaned.scan.shards.indexed:
        typer.echo(f"next: megabatch data index {folder}")
    if head["masked_ambiguous"]:
        typer.echo(
            f"note: {head['masked_ambiguous']:,} of these share their key with other samples, so the mask cannot name "
            "them; --write FOLDER leaves them out"
        )
    if sum(head["masked"].values()) > head["masked_ambiguous"]:
        typer.echo(f"in the recipe: data: {{mask: {target / 'mask.json'}}}")
        typer.echo(
            f"next: megabatch launch RECIPE data.path={folder} data.mask={shlex.quote(str(target / 'mask.json'))}"
        )
