"""`megabatch data ...`: make, look at and check data sets. Reads arguments, calls the data room, prints."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from megabatch.launcher.clean_commands import clean

if TYPE_CHECKING:
    from megabatch.data.dataset import Dataset

app = typer.Typer(help="Make, look at and check data sets.", no_args_is_help=True, rich_markup_mode=None)
_BYTES_PER_MIB = 1 << 20
_SECONDS_BETWEEN_LINES = 10
FolderArgument = Annotated[Path, typer.Argument(help="Folder of a data set.")]


@app.command(
    name="import", epilog="Example: megabatch data import photos.zip data/photos --split train=0.9,validation=0.1"
)
def import_command(
    source: Annotated[
        Path, typer.Argument(help="Folder of CLASS/image files, or of train/CLASS/...; or a zip of one.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the shards.")],
    split: Annotated[
        str, typer.Option(metavar="NAME=SHARE,...", help="Divide train, each class in these shares.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Decides the order in the shards and the split.")] = 0,
    samples_per_shard: Annotated[int, typer.Option(min=1, help="Samples in a shard at most.")] = 1000,
    max_shard_mib: Annotated[int, typer.Option(min=1, help="Size of a shard in MiB at most.")] = 128,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out files that are no images.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier import in OUT.")] = False,
) -> None:
    """Turn class folders of images into shards with an index. Image bytes are stored unchanged."""
    from megabatch.data.image_sources import shown
    from megabatch.data.importer import ImportOptions, import_images

    with _mistakes_told(), _progress("images") as progress:
        options = ImportOptions(
            _shares(split), seed, samples_per_shard, max_shard_mib * _BYTES_PER_MIB, skip_broken, overwrite
        )
        imported = import_images(source, out, options, progress)
    _print_dataset(imported.dataset)
    if imported.broken:
        typer.echo(f"left out as broken: {len(imported.broken):,}: {shown(list(imported.broken))}")
    if imported.ignored_files:
        typer.echo(f"ignored: {imported.ignored_files:,} files that are no images by their name")
    typer.echo(f"next: megabatch launch RECIPE data.path={shlex.quote(str(out))}")


@app.command(epilog="Example: megabatch data index /big/imagenet --classes names.txt")
def index(
    folder: Annotated[Path, typer.Argument(help="Folder of .tar shards named SPLIT-NUMBER.tar.")],
    classes: Annotated[
        Path | None, typer.Option(help="File of class names, one a line (default: classes.txt).")
    ] = None,
) -> None:
    """Index shards that exist already; they are not changed."""
    from megabatch.data.indexing import index_shards

    with _mistakes_told(), _progress("shards") as progress:
        dataset = index_shards(folder, classes, progress)
    _print_dataset(dataset)


@app.command()
def info(
    folder: FolderArgument, as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False
) -> None:
    """Show splits, shards, samples and classes of a data set."""
    from megabatch.data.dataset import FILE_NAME, read_dataset

    with _mistakes_told():
        dataset = read_dataset(folder)
        if as_json:
            typer.echo((folder / FILE_NAME).read_text(encoding="utf-8"))
        else:
            _print_dataset(dataset)


@app.command()
def verify(
    folder: FolderArgument,
    decode: Annotated[bool, typer.Option("--decode", help="Decode every image too.")] = False,
) -> None:
    """Read every byte of every shard and compare it with what was recorded."""
    from megabatch.data.dataset import read_dataset
    from megabatch.data.indexing import verify as verify_dataset

    with _mistakes_told(), _progress("shards") as progress:
        problems = verify_dataset(read_dataset(folder), progress, decode)
    for problem in problems:
        typer.echo(f"error: {problem}", err=True)
    if problems:
        raise typer.Exit(1)
    typer.echo(f"{folder}: every shard is as it was recorded")


@app.command()
def example(folder: Annotated[Path, typer.Argument(help="Folder for the images.")]) -> None:
    """Write scikit-learn's handwritten digits as PNG files, to try things with."""
    from megabatch.data.digits import write_digits

    with _mistakes_told():
        count = write_digits(folder)
    typer.echo(f"{count} images in {folder}")
    quoted = shlex.quote(str(folder))
    typer.echo(f"next: megabatch data import {quoted} data/digits --split train=0.8,validation=0.1,test=0.1")


app.command(epilog="Example: megabatch data clean data/photos --mask-kinds leak,duplicate,near_leak")(clean)


def _shares(text: str) -> dict[str, float]:
    """Read train=0.8,test=0.2."""
    shares: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, share = part.strip().partition("=")
        if not (name.isascii() and name.isidentifier() and _is_number(share)):
            _fail(f"--split {text}: write NAME=SHARE,... as in train=0.9,validation=0.1")
        if name in shares:
            _fail(f"--split {text}: {name} comes twice")
        shares[name] = float(share)
    return shares


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _print_dataset(dataset: Dataset) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("split", "samples", "shards", "bytes", box=None, pad_edge=False)
    for split in dataset.splits:
        size = sum(shard.bytes for shard in split.shards)
        table.add_row(split.name, f"{split.samples:,}", f"{len(split.shards):,}", f"{size:,}")
    console = Console(markup=False)  # a class may be called [bold]
    console.print(str(dataset.folder), highlight=False, soft_wrap=True)
    console.print(table)
    names = ", ".join(dataset.classes[:10]) + (", ..." if len(dataset.classes) > 10 else "")
    console.print(f"{len(dataset.classes):,} classes: {names}", highlight=False, soft_wrap=True)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal, and a line now and then in a log."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(what)
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(what: str) -> Callable[[int, int], None]:
    last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            typer.echo(f"{what}: {done:,} of {total:,}", err=True)

    return progress


@contextmanager
def _mistakes_told() -> Iterator[None]:
    from megabatch.data.errors import DataError

    try:
        yield
    except DataError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or 'input or output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        typer.echo("interrupted: nothing of it is used; start it again", err=True)
        raise typer.Exit(130) from None


def _fail(message: str) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(2)
