"""`megabatch config`: what a recipe comes to, and what there is. Reads arguments, prints."""

from __future__ import annotations

from typing import Annotated

import typer

from megabatch.launcher.arguments import (
    DEFAULT_CLUSTER,
    ClusterOption,
    JsonOption,
    RecipeArguments,
    fail,
    or_exit,
    split,
)
from megabatch.launcher.help_text import examples
from megabatch.launcher.json_output import answer, json_alone

app = typer.Typer(help="Look at recipes and their schema.", no_args_is_help=True, rich_markup_mode=None)


@app.command(epilog=examples("megabatch config show digits", "megabatch config show mine.yaml optimizer=lamb --origin"))
def show(
    arguments: RecipeArguments,
    cluster: ClusterOption = DEFAULT_CLUSTER,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value comes from.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the resolved recipe and cluster: every key, defaults included."""
    from megabatch.configs.load import load
    from megabatch.launcher import render

    recipe, overrides = split(arguments)
    loaded = or_exit(lambda: load(recipe, cluster, overrides))
    with json_alone(as_json):
        answer(**render.config_values(loaded, origin))
        render.print_config(loaded, origin)


@app.command(epilog=examples("megabatch config schema > recipe.schema.json", "megabatch config schema cluster"))
def schema(which: Annotated[str, typer.Argument(help="recipe or cluster")] = "recipe") -> None:
    """Print the JSON schema, for editors that complete and check YAML."""
    import json

    from pydantic import BaseModel

    from megabatch.configs.cluster import Cluster
    from megabatch.configs.recipe import Recipe

    models: dict[str, type[BaseModel]] = {"recipe": Recipe, "cluster": Cluster}
    if which not in models:
        fail(f"no schema {which!r}: write recipe or cluster")
    typer.echo(json.dumps(models[which].model_json_schema(), indent=2))


@app.command(name="list", epilog=examples("megabatch config list"))
def list_shipped(as_json: JsonOption = False) -> None:
    """List the shipped recipes and clusters."""
    from megabatch.configs.load import shipped

    with json_alone(as_json):
        for kind in ("recipes", "clusters"):
            answer(**{kind: list(shipped(kind))})
            typer.echo(f"{kind}: {', '.join(shipped(kind))}")
