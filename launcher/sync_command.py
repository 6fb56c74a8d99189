"""`megabatch sync`: sends the metrics of runs to Weights & Biases, in a process of its own that has wandb."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from megabatch.launcher.arguments import or_exit
from megabatch.launcher.completion import complete_run


def sync(
    run_dirs: Annotated[
        list[str], typer.Argument(metavar="RUN_DIR|latest...", help="Folders of the runs.", autocompletion=complete_run)
    ],
    project: Annotated[str | None, typer.Option(help="Project (default: that of the recipe).")] = None,
    entity: Annotated[str | None, typer.Option(help="User or team (default: that of the recipe).")] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Send nothing: write RUN_DIR/wandb-replay, for wandb sync and wandb leet.")
    ] = False,
    new: Annotated[
        bool, typer.Option("--new", help="As a new run, where what was sent before cannot be completed.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent; send nothing.")] = False,
) -> None:
    """Send runs to Weights & Biases: each as one clean run out of its metrics.jsonl, without what was sent before.

    Exit codes: 0 done, 1 the server cannot be reached or takes nothing, 2 a mistake in what you wrote.
    """
    from megabatch.launcher import tracking
    from megabatch.launcher.save_job import find_folder

    found = [or_exit(partial(find_folder, name, None)) for name in run_dirs]
    runs = [run for whole in found for run in (whole.stages() or [whole])]
    options = [
        *([] if project is None else ["--project", project]), *([] if entity is None else ["--entity", entity]),
        *(name for name, wished in (("--offline", offline), ("--new", new), ("--dry-run", dry_run)) if wished),
    ]  # fmt: skip
    raise typer.Exit(tracking.sync(runs, options))
