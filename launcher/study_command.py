"""`megabatch study`: case studies that one command reproduces. Reads arguments, has them trained, prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megabatch.configs.json_files import read_json
from megabatch.launcher.arguments import DEFAULT_CLUSTER, ClusterOption, JsonOption, fail, or_exit, or_exit_study
from megabatch.launcher.completion import complete_overrides
from megabatch.launcher.help_text import examples
from megabatch.launcher.json_output import answer, json_alone
from megabatch.launcher.mistakes import mistakes_told

if TYPE_CHECKING:
    from megabatch.launcher.study.overfit import Study

app = typer.Typer(
    help="Reproduce a case study of the documentation, on your data if you like.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def common() -> None:
    """Reproduce a case study of the documentation, on your data if you like."""


@app.command(epilog=examples("megabatch study overfit --seeds 3 data.path=data/cifar10"))
def overfit(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Changes of all recipes of the study.", autocompletion=complete_overrides
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each recipe, with seed, seed + 1, ...")] = 3,
    members: Annotated[int, typer.Option(min=2, help="Networks in a fusion, each with a seed of its own.")] = 3,
    cluster: ClusterOption = DEFAULT_CLUSTER,
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the study.")] = Path("studies/overfit"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and count the runs; start nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """What helps a network that learns few samples by heart: one thing at a time, and together (docs/overfitting.md).

    The data have to be there first; without changes it is CIFAR-10 in data/cifar10. Ctrl-C saves a checkpoint; the
    same command goes on.
    """
    from megabatch.launcher.study import overfit as study

    wrong = [text for text in overrides or [] if "=" not in text]
    if wrong:
        fail(f"{wrong[0]} is no override: write key=value. The recipes of the study are fixed")
    planned = or_exit(lambda: study.plan(cluster, overrides or [], seeds, members, folder))
    or_exit(lambda: study.inspect(planned))
    with json_alone(as_json):
        runs = list(planned.runs())
        typer.echo(f"{len(planned.jobs)} recipes, {len(runs)} runs, {seeds} seeds, {members} networks in a fusion")
        typer.echo(f"folder: {planned.folder}")
        if not dry_run:
            raise typer.Exit(or_exit_study(lambda: _run(planned)))


def _run(planned: Study) -> int:
    from megabatch.launcher.study import overfit as study
    from megabatch.launcher.study import overfit_report
    from megabatch.launcher.study.runs import held
    from megabatch.launcher.supervise import ExitCode

    with held(planned.folder):
        for part in (study.train_all, study.fuse_all):
            ending = part(planned, typer.echo)
            if ending.code == ExitCode.STOPPED:
                typer.echo("stopped. The same command goes on where this one ended")
                return ExitCode.STOPPED
            if ending.code != ExitCode.DONE:
                typer.echo(f"error: {ending.message}. The same command tries it again", err=True)
                return ExitCode.FAILED
        rows = overfit_report.collect(planned, study.sizes(planned))
        with mistakes_told():
            written = overfit_report.write(planned, rows)
    typer.echo("")
    overfit_report.print_table(rows)
    answer(written=[str(file) for file in written], **read_json(written[0]))
    typer.echo("\nmean ± standard deviation over the seeds; to the baseline: mean ± half of its 95 % interval")
    typer.echo(f"written: {', '.join(str(file) for file in written)}")
    return ExitCode.DONE
