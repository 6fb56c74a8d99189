"""`megabatch fuse`: reads arguments, shows the recipe, has it trained, prints the comparison with the ensemble."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from megabatch.launcher.arguments import DEFAULT_CLUSTER, ClusterOption, JsonOption, fail, or_exit, or_exit_study
from megabatch.launcher.completion import complete_overrides, complete_run
from megabatch.launcher.json_output import answer, json_alone


def fuse(
    run_dir: Annotated[
        str,
        typer.Argument(
            metavar="RUN_DIR", help="Folder that `megabatch ensemble` has written.", autocompletion=complete_run
        ),
    ],
    share_until: Annotated[
        str, typer.Option(metavar="LAYER", help="The last layer that all members share: layer2, 3, stages.1.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Further changes of the recipe.", autocompletion=complete_overrides
        ),
    ] = None,
    learn_weights: Annotated[
        bool, typer.Option("--learn-weights", help="Train also how much each member counts.")
    ] = False,
    epochs: Annotated[
        int | None, typer.Option(help="How long to train (default: a third of the first member's epochs).")
    ] = None,
    cluster: ClusterOption = DEFAULT_CLUSTER,
    output: Annotated[Path | None, typer.Option("--run-dir", help="Folder of the new run.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train an ensemble on as one network that shares its low layers; writes the recipe of that first."""
    from megabatch.launcher import launch
    from megabatch.launcher.study import further
    from megabatch.launcher.study import fuse as study
    from megabatch.launcher.table import print_table

    wrong = [text for text in overrides or [] if "=" not in text]
    if wrong:
        fail(f"{wrong[0]} is no override: write key=value")
    of_cluster = [text for text in overrides or [] if text.startswith("cluster.")]
    of_recipe = [text for text in overrides or [] if text not in of_cluster]
    with json_alone(as_json):
        source, job = or_exit(lambda: further.source_run(run_dir))
        recipe = or_exit(lambda: study.fusion_recipe(source, job, share_until, learn_weights, epochs, of_recipe))
        made = or_exit(lambda: further.write_recipe(recipe, source, output, "fuse"))
        typer.echo(f"{made.recipe}:\n\n{made.recipe.read_text(encoding='utf-8')}")
        code = or_exit(lambda: further.train(made, cluster, of_cluster))
        if code == 0 and launch.is_finished(made):
            found = or_exit_study(lambda: further.compared(source, made, job, study.NAMES, study.COMPARISON))
            answer(comparison=found)
            print_table(["", *study.NAMES, ""], further.comparison_rows(found, job.recipe.metric))
        raise typer.Exit(code)
