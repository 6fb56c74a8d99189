"""`megabatch data ...`: make, look at and check data sets. Reads arguments, calls the data room, prints."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megabatch.launcher.arguments import JsonOption
from megabatch.launcher.clean_commands import clean
from megabatch.launcher.help_text import examples
from megabatch.launcher.inspect_command import inspect
from megabatch.launcher.json_output import answer, json_alone
from megabatch.launcher.mistakes import fail, mistakes_told
from megabatch.launcher.progress import progress_on_stderr
from megabatch.launcher.repack_command import repack
from megabatch.launcher.stats_commands import stats

if TYPE_CHECKING:
    from megabatch.data.dataset import Dataset

app = typer.Typer(help="Make, look at and check data sets.", no_args_is_help=True, rich_markup_mode=None)
app.command(
    epilog=examples(
        "megabatch data clean data/photos",
        "megabatch data clean data/photos --mask-kinds leak,duplicate,near_leak --write data/photos-clean",
    )
)(clean)
app.command(epilog=examples("megabatch data stats data/photos"))(stats)
app.command(epilog=examples("megabatch data repack data/photos data/photos-512 --max-size 512 --quality 90"))(repack)
app.command(epilog=examples("megabatch data inspect data/photos imagenet-resnet50 --out samples.html"))(inspect)
_BYTES_PER_MIB = 1 << 20
LocationArgument = Annotated[str, typer.Argument(metavar="DATASET", help="Folder, spec or URL of a data set.")]


@app.command(
    name="import", epilog=examples("megabatch data import photos.zip data/photos --split train=0.9,validation=0.1")
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
    as_json: JsonOption = False,
) -> None:
    """Turn class folders of images into shards with an index. Image bytes are stored unchanged."""
    from megabatch.data.image_sources import shown
    from megabatch.data.importer import ImportOptions, import_images

    with json_alone(as_json):
        with mistakes_told(), progress_on_stderr("images") as progress:
            options = ImportOptions(
                _shares(split), seed, samples_per_shard, max_shard_mib * _BYTES_PER_MIB, skip_broken, overwrite
            )
            imported = import_images(source, out, options, progress)
        answer(**_described(imported.dataset), broken=list(imported.broken), ignored_files=imported.ignored_files)
        _print_dataset(imported.dataset)
        if imported.broken:
            typer.echo(f"left out as broken: {len(imported.broken):,}: {shown(list(imported.broken))}")
        if imported.ignored_files:
            typer.echo(f"ignored: {imported.ignored_files:,} files that are no images by their name")
        typer.echo(f"next: megabatch launch RECIPE data.path={shlex.quote(str(out))}")


@app.command(epilog=examples("megabatch data index /big/imagenet --classes names.txt"))
def index(
    location: Annotated[
        str, typer.Argument(help="Folder of .tar shards named SPLIT-NUMBER.tar, or a spec: s3://big/train-{00..99}.tar")
    ],
    classes: Annotated[
        Path | None, typer.Option(help="File of class names, one a line (default: classes.txt).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Index shards that exist already; they are not changed."""
    from megabatch.configs.cache import Cache
    from megabatch.data.sources.open import index_dataset

    with json_alone(as_json):
        with mistakes_told(), progress_on_stderr("shards") as progress:
            dataset = index_dataset(location, Path.cwd(), Cache(), progress, classes)
        answer(**_described(dataset))
        _print_dataset(dataset)
        if dataset.location:
            typer.echo(f"written: {dataset.folder / 'dataset.json'}; beside the shards, every node finds it")


@app.command(epilog=examples("megabatch data info data/photos", "megabatch data info data/photos --json"))
def info(
    location: LocationArgument,
    as_json: JsonOption = False,
) -> None:
    """Show splits, shards, samples and classes of a data set."""
    from megabatch.data.dataset import described

    dataset = _opened(location)
    if as_json:
        typer.echo(described(dataset))
    else:
        _print_dataset(dataset)


@app.command(epilog=examples("megabatch data verify data/photos", "megabatch data verify data/photos --decode"))
def verify(
    location: LocationArgument,
    decode: Annotated[bool, typer.Option("--decode", help="Decode every image too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Read every byte of every shard and compare it with what was recorded."""
    from megabatch.data.indexing import verify as verify_dataset

    dataset = _opened(location)
    with json_alone(as_json):
        with mistakes_told(), progress_on_stderr("shards") as progress:
            problems = verify_dataset(dataset, progress, decode)
        answer(problems=list(map(str, problems)))
        for problem in problems:
            typer.echo(f"error: {problem}", err=True)
        if problems:
            raise typer.Exit(1)
        typer.echo(f"{dataset.shown}: every shard is as it was recorded")


@app.command(epilog=examples("megabatch data example digits-images"))
def example(folder: Annotated[Path, typer.Argument(help="Folder for the images.")]) -> None:
    """Write scikit-learn's handwritten digits as PNG files, to try things with."""
    from megabatch.data.digits import write_digits

    with mistakes_told():
        count = write_digits(folder)
    typer.echo(f"{count} images in {folder}")
    quoted = shlex.quote(str(folder))
    typer.echo(f"next: megabatch data import {quoted} data/digits --split train=0.8,validation=0.1,test=0.1")


def _opened(location: str) -> Dataset:
    """Open a data set, which may have to be indexed first."""
    from megabatch.configs.cache import Cache
    from megabatch.data.sources.open import open_dataset

    with mistakes_told(), progress_on_stderr("shards") as progress:
        return open_dataset(location, Path.cwd(), Cache(), progress)


def _described(dataset: Dataset) -> dict[str, Any]:  # Any: what JSON can say
    from megabatch.data.dataset import described

    return {"folder": str(dataset.folder), **json.loads(described(dataset))}


def _shares(text: str) -> dict[str, float]:
    """Read train=0.8,test=0.2."""
    shares: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, share = part.strip().partition("=")
        if not (name.isascii() and name.isidentifier() and _is_number(share)):
            fail(f"--split {text}: write NAME=SHARE,... as in train=0.9,validation=0.1")
        if name in shares:
            fail(f"--split {text}: {name} comes twice")
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
    console.print(dataset.shown, highlight=False, soft_wrap=True)
    console.print(table)
    names = ", ".join(dataset.classes[:10]) + (", ..." if len(dataset.classes) > 10 else "")
    known = f"{len(dataset.classes):,} classes: {names}" if dataset.classes else "no classes: the samples have no .cls"
    console.print(known, highlight=False, soft_wrap=True)
