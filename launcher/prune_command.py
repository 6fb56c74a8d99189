"""`megabatch prune`: reads arguments, shows the recipe, has it trained, prints the comparison."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from megabatch.launcher.arguments import DEFAULT_CLUSTER, ClusterOption, JsonOption, fail, or_exit, or_exit_study
from megabatch.launcher.completion import complete_overrides, complete_run
from megabatch.launcher.json_output import answer, json_alone


class PruningChoice(StrEnum):
    """What of the network is removed."""

    MAGNITUDE = "magnitude"
    N_OF_M = "n_of_m"
    CHANNELS = "channels"


def prune(
    run_dir: Annotated[
        str, typer.Argument(metavar="RUN_DIR|latest", help="Folder of a trained run.", autocompletion=complete_run)
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Further changes of the recipe.", autocompletion=complete_overrides
        ),
    ] = None,
    name: Annotated[PruningChoice, typer.Option(help="What is removed (docs/pruning.md).")] = PruningChoice.CHANNELS,
    sparsity: Annotated[
        float | None, typer.Option(help="Of magnitude: the share of weights that become zero (default 0.8).")
    ] = None,
    flops: Annotated[
        float | None, typer.Option(help="Of channels: the share of the operations that may be left (default 0.5).")
    ] = None,
    keep: Annotated[list[str] | None, typer.Option(help="Layers that stay as they are; may be given again.")] = None,
    epochs: Annotated[
        int | None, typer.Option(help="How long to train afterwards (default: a third of the run's epochs).")
    ] = None,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Train nothing: tell what each layer alone can spare.")
    ] = False,
    cluster: ClusterOption = DEFAULT_CLUSTER,
    output: Annotated[Path | None, typer.Option("--run-dir", help="Folder of the new run.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Remove weights or channels of a trained network and train it further; writes the recipe of that first."""
    settings = _settings(name, sparsity, flops, keep or [])
    wrong = [text for text in overrides or [] if "=" not in text]
    if wrong:
        fail(f"{wrong[0]} is no override: write key=value")
    with json_alone(as_json):
        if sensitivity:
            _scan(run_dir, name, cluster, overrides or [], keep or [])
        else:
            _train(run_dir, settings, epochs, cluster, overrides or [], output)


def _settings(name: PruningChoice, sparsity: float | None, flops: float | None, keep: list[str]) -> dict[str, Any]:
    own = {PruningChoice.MAGNITUDE: "--sparsity", PruningChoice.CHANNELS: "--flops"}.get(name)
    for option, value in (("--sparsity", sparsity), ("--flops", flops)):
        if value is not None and option != own:
            fail(f"{option} is not for --name {name.value}" + (f", which takes {own}" if own else ""))
    settings: dict[str, Any] = {"name": name.value, "keep": keep}
    if name is PruningChoice.MAGNITUDE:
        settings["sparsity"] = 0.8 if sparsity is None else sparsity
    if name is PruningChoice.CHANNELS:
        settings["flops"] = 0.5 if flops is None else flops
    return settings


def _train(
    which: str, settings: dict[str, Any], epochs: int | None, cluster: str, overrides: list[str], output: Path | None
) -> None:
    from megabatch.launcher import launch
    from megabatch.launcher.study import further
    from megabatch.launcher.study.prune import pruning_recipe
    from megabatch.launcher.table import print_table

    of_cluster = [text for text in overrides if text.startswith("cluster.")]
    of_recipe = [text for text in overrides if text not in of_cluster]
    source, job = or_exit(lambda: further.source_run(which))
    recipe = or_exit(lambda: pruning_recipe(source, job, settings, epochs, of_recipe))
    run_dir = or_exit(lambda: further.write_recipe(recipe, source, output))
    typer.echo(f"{run_dir.recipe}:\n\n{run_dir.recipe.read_text(encoding='utf-8')}")
    code = or_exit(lambda: further.train(run_dir, cluster, of_cluster))
    if code == 0 and launch.is_finished(run_dir):
        found = or_exit_study(lambda: further.compared(source, run_dir, job))
        answer(comparison=found)
        print_table(["", "dense", "pruned", ""], further.comparison_rows(found, job.recipe.metric))
    raise typer.Exit(code)


def _scan(which: str, name: PruningChoice, cluster: str, overrides: list[str], keep: list[str]) -> None:
    from megabatch.launcher.study import further, sensitivity
    from megabatch.launcher.table import print_table

    if any(not text.startswith("cluster.") for text in overrides):
        fail("--sensitivity takes the recipe of the run as it is: only cluster.* can be changed")
    source, job = or_exit(lambda: further.source_run(which))
    found = or_exit_study(lambda: sensitivity.scan(source, job, cluster, overrides, name.value, keep))
    answer(**found)
    typer.echo(f"whole network: {found['metric']} {found['base']:.4f} on validation; with a share of one layer gone:")
    print_table(sensitivity.columns(found), sensitivity.rows(found))
    typer.echo(f"page: {sensitivity.write(found, source, name.value)}")
