"""The command line: reads arguments, calls, prints. Decides nothing. Heavy imports stay inside the commands."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from megabatch.configs.streams import outlive_readers
from megabatch.launcher.ablate_command import ablate
from megabatch.launcher.arguments import DEFAULT_CLUSTER, ClusterOption, JsonOption, RecipeArguments, RunArgument
from megabatch.launcher.arguments import fail as _fail
from megabatch.launcher.arguments import or_exit as _or_exit
from megabatch.launcher.arguments import split as _split
from megabatch.launcher.cluster_commands import app as cluster_app
from megabatch.launcher.completion import complete_cluster, complete_recipe, complete_run
from megabatch.launcher.config_commands import app as config_app
from megabatch.launcher.data_commands import app as data_app
from megabatch.launcher.ensemble_command import ensemble
from megabatch.launcher.export_command import export
from megabatch.launcher.from_timm_command import from_timm
from megabatch.launcher.fuse_command import fuse
from megabatch.launcher.help_text import FIRST_STEPS, SectionedGroup, examples
from megabatch.launcher.job_commands import cancel, drill, logs, status
from megabatch.launcher.json_output import json_alone
from megabatch.launcher.mistakes import mistakes_told
from megabatch.launcher.new_command import new
from megabatch.launcher.prune_command import prune
from megabatch.launcher.quantize_command import quantize
from megabatch.launcher.report_commands import compare, report
from megabatch.launcher.runs_command import app as runs_app
from megabatch.launcher.soup_command import soup
from megabatch.launcher.study_command import app as study_app
from megabatch.launcher.sync_command import sync
from megabatch.launcher.tune_commands import app as tune_app

app = typer.Typer(
    name="megabatch",
    help="Train image models with large batches over plain tar shards, exact to the sample.",
    no_args_is_help=True,
    add_completion=True,
    cls=SectionedGroup,
    epilog=FIRST_STEPS,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(epilog=examples("megabatch new mine"))(new)
app.add_typer(runs_app, name="runs")
app.add_typer(config_app, name="config")
config_app.command(
    name="from-timm",
    context_settings={"ignore_unknown_options": True},  # those of train.py, where nothing stands before them
    epilog="Example: megabatch config from-timm 'torchrun --nproc_per_node=8 train.py /data --model resnet50 --lr 0.5'",
)(from_timm)
app.add_typer(data_app, name="data")
app.add_typer(tune_app, name="tune")
app.add_typer(cluster_app, name="cluster")
app.add_typer(study_app, name="study")
app.command(
    epilog=examples(
        "megabatch ablate digits --vary regularization.label_smoothing=0 --seeds 5",
        "megabatch ablate mine.yaml --vary 'optimizer=sgd|lamb' --vary 'schedule.warmup=0|5' --full --dry-run",
    )
)(ablate)
app.command(epilog=examples("megabatch soup runs/a runs/b runs/c --greedy --output runs/soup"))(soup)
app.command(epilog=examples("megabatch ensemble runs/a runs/b runs/c --weights fitted --output runs/abc"))(ensemble)
app.command(epilog=examples("megabatch fuse runs/abc --share-until layer2 --epochs 6"))(fuse)
app.command(
    epilog=examples(
        "megabatch prune runs/mine --name channels --flops 0.5 --epochs 6", "megabatch prune runs/mine --sensitivity"
    )
)(prune)
app.command(epilog=examples("megabatch quantize runs/mine --name static --samples 1000"))(quantize)
app.command(
    epilog=examples(
        "megabatch export latest --format onnx --output digits.onnx",
        "megabatch export runs/mine --format safetensors --checkpoint last",
    )
)(export)
app.command(
    epilog=examples("megabatch status", "megabatch status runs/mine --follow", "megabatch status latest --json")
)(status)
app.command(epilog=examples("megabatch logs latest --follow", "megabatch logs runs/mine --rank 3"))(logs)
app.command(epilog=examples("megabatch cancel latest"))(cancel)
app.command(epilog=examples("megabatch drill latest", "megabatch drill runs/mine --steps 20"))(drill)
app.command(epilog=examples("megabatch sync latest", "megabatch sync runs/mine runs/other --project mine"))(sync)
app.command(epilog=examples("megabatch report latest", "megabatch report latest --price-per-device-hour 2.5"))(report)
app.command(
    epilog=examples("megabatch compare runs/a runs/b", "megabatch compare runs/a runs/b --output compare.html")
)(compare)


@app.command(
    epilog=examples(
        "megabatch plan digits",
        "megabatch plan imagenet-resnet50 --cluster one-node-8gpu batch.global_batch=8192 --model",
        "megabatch plan mine.yaml --plot --json",
    )
)
def plan(
    arguments: RecipeArguments,
    cluster: ClusterOption = DEFAULT_CLUSTER,
    model: Annotated[
        bool, typer.Option("--model", help="Also build the model: parameters and memory (takes seconds).")
    ] = False,
    as_json: JsonOption = False,
    plot: Annotated[bool, typer.Option("--plot", help="Also draw the learning rate over the steps.")] = False,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Write that drawing as a picture (SVG).")] = None,
) -> None:
    """Show the arithmetic of a run: micro-batches, steps, learning rate, samples and shards per rank."""
    from megabatch.launcher import render
    from megabatch.launcher.known_speed import known_speed
    from megabatch.launcher.plot import svg_plot, text_plot
    from megabatch.launcher.prepare import inspect_model
    from megabatch.launcher.save_job import RUNS_FOLDER
    from megabatch.launcher.stages import prepare_all

    recipe, overrides = _split(arguments)
    planned = _or_exit(lambda: prepare_all(recipe, cluster, overrides))
    if len(planned) > 1 and (as_json or svg is not None):
        _fail("--json and --svg show one run, and this recipe has stages: the plan without them shows each")
    for prepared in planned:
        found = _or_exit(partial(inspect_model, prepared.job)) if model else None
        speed = known_speed(prepared.job, RUNS_FOLDER)
        if as_json:
            typer.echo(render.plan_json(prepared.plan, found, speed))
        else:
            render.print_plan(prepared.job, prepared.plan, found, speed)
        if plot:
            typer.echo("\nlearning rate\n" + text_plot(prepared.plan.learning_rates))
    if svg is not None:
        title = f"{prepared.job.recipe.name}: learning rate, {prepared.job.recipe.schedule.name}"
        with mistakes_told():
            svg.write_text(svg_plot(prepared.plan.learning_rates, title), encoding="utf-8")


@app.command(
    epilog=examples(
        "megabatch launch digits epochs=10 cluster.processes_per_node=1",
        "megabatch launch mine.yaml --cluster slurm.yaml --dry-run",
        "megabatch launch --resume latest",
    )
)
def launch(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE|KEY=VALUE", help="Name or path of a recipe, then overrides.", autocompletion=complete_recipe
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster", "-c", help="Name or path of a cluster file (default: laptop).", autocompletion=complete_cluster
        ),
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of the run (default: runs/NAME-DATE-TIME).")] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN_DIR|latest", help="Go on with a run instead of starting one.", autocompletion=complete_run
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and the exact command; start nothing.")
    ] = False,
    write: Annotated[
        Path | None, typer.Option(metavar="RUN_DIR", help="With --dry-run: write RUN_DIR/job.yaml to start by hand.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check everything, then start the job; Ctrl-C saves a checkpoint and ends it."""
    from megabatch.launcher import run_commands

    recipe, overrides = _split(arguments or [], required=resume is None)
    if write is not None and not dry_run:
        _fail("--write goes with --dry-run: it writes job.yaml for a start by hand")
    if run_dir is not None and (dry_run or resume is not None):
        _fail("--run-dir names the folder of a new run: with --dry-run use --write RUN_DIR, and --resume names its own")
    with json_alone(as_json):
        if resume is not None:
            code = _or_exit(lambda: run_commands.resume_run(resume, recipe or None, cluster, overrides, dry_run))
        elif dry_run:
            code = _or_exit(lambda: run_commands.dry_run(recipe, cluster or DEFAULT_CLUSTER, overrides, write))
        else:
            code = _or_exit(lambda: run_commands.start_run(recipe, cluster or DEFAULT_CLUSTER, overrides, run_dir))
    raise typer.Exit(code)


@app.command(
    name="eval",
    epilog=examples("megabatch eval latest --split test", "megabatch eval runs/mine --checkpoint last --json"),
)
def evaluate(
    run_dir: RunArgument,
    split: Annotated[str, typer.Option(help="Split to evaluate.")] = "test",
    checkpoint: Annotated[str, typer.Option(help="best, last, or the step of a checkpoint.")] = "best",
    raw: Annotated[bool, typer.Option("--raw", help="The weights themselves, where the recipe averages them.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a checkpoint of a run on any split, every sample exactly once."""
    from megabatch.launcher import run_commands

    weights = "raw" if raw else "averaged"
    with json_alone(as_json):
        raise typer.Exit(_or_exit(lambda: run_commands.evaluate_run(run_dir, split, checkpoint, weights)))


@app.command(epilog=examples("megabatch check", "megabatch check mine.yaml --cluster two-nodes.yaml"))
def check(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE] [KEY=VALUE]...", help="With --cluster: data to read.", autocompletion=complete_recipe
        ),
    ] = None,
    cluster: Annotated[
        str,
        typer.Option(
            "--cluster", "-c", help="Start its ranks and have each look around.", autocompletion=complete_cluster
        ),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Show what this machine has for a run; with --cluster, what every rank finds on its node, and what is wrong."""
    import json

    from megabatch.launcher.check import machine_facts

    if cluster:
        from megabatch.launcher.check_command import check_nodes

        raise typer.Exit(check_nodes(*_split(arguments or [], required=False), cluster, as_json))
    if arguments:
        _fail("name a cluster file too: the ranks of --cluster read the data of the recipe")

    facts = machine_facts()
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
    else:
        width = max(map(len, facts)) + 2
        typer.echo("\n".join(f"{name:{width}}{value}" for name, value in facts.items()))


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"megabatch {version('megabatch')}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hold the options before the command."""


def main() -> None:
    """Run the command line."""
    outlive_readers()
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
