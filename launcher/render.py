"""How plans, configs and results look on a terminal. Turns values into rich tables; decides nothing."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from megabatch.configs.durations import duration
from megabatch.configs.job import Job
from megabatch.configs.load import Loaded
from megabatch.configs.pretrained import WeightsSource
from megabatch.configs.sizes import size
from megabatch.configs.targets import METRICS, described_outputs, main_metric_in
from megabatch.configs.yaml_tree import KeyPath, Tree
from megabatch.data.arrangement import shown_data
from megabatch.launcher.known_speed import Speed
from megabatch.launcher.memory_need import state_bytes
from megabatch.launcher.plan import Plan


def print_plan(job: Job, plan: Plan, model: dict[str, Any] | None, speed: Speed | None) -> None:
    """Print the plan as two columns, every derived number with how it came about."""
    table = _table(f"plan: {job.recipe.name} on {job.cluster.name}")
    for row in plan_rows(job, plan, model):
        table.add_row(*row)
    if speed is not None:
        table.add_row("time", _time(plan, speed))
    Console().print(table)


def plan_rows(job: Job, plan: Plan, model: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Return what is derived from the job, and from its model where that is known, as names and texts."""
    rows = [*_data_rows(job, plan), *_start_rows(job), *_batch_rows(plan), *_rate_rows(job, plan)]
    return rows if model is None else [*rows, *_model_rows(job, model)]


def plan_json(plan: Plan, model: dict[str, Any] | None, speed: Speed | None) -> str:
    """Return the plan as JSON text."""
    values = asdict(plan)
    if model is not None:
        values["model"] = model
    if speed is not None:
        values["samples_per_second"] = speed.samples_per_second
    return json.dumps(values, indent=2)


def _time(plan: Plan, speed: Speed) -> str:
    epoch = duration(plan.samples_per_epoch / speed.samples_per_second)
    whole = duration(plan.samples_in_all / speed.samples_per_second)
    known = f"{speed.samples_per_second:,.0f} samples/s as in {speed.run}"
    return f"{epoch} of training steps an epoch, {whole} in all, at {known}"


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _data_rows(job: Job, plan: Plan) -> list[tuple[str, str]]:
    splits = [(f"  {s.use}", f"{s.samples:,} samples in {s.shards} shards ({s.name})") for s in plan.splits]
    drawn = [("  drawn", plan.drawn)] if plan.drawn else []
    data = job.recipe.data
    after = (data.normalize, *data.batch_transforms)
    return [
        ("data", f"{shown_data(job)}, {described_outputs(data.target, plan.num_classes)}"),
        *splits,
        *drawn,
        ("transforms", f"train: {_names(*data.train_transforms, *after)}"),
        ("", f"evaluation: {_names(*data.evaluation_transforms, data.normalize)}"),
    ]


def _names(*choices: Any) -> str:  # Any: transforms and normalizations, which all have a name
    return ", ".join(choice.name for choice in choices)


def _start_rows(job: Job) -> list[tuple[str, str]]:
    pretrained, distillation = job.recipe.model.pretrained, job.recipe.distillation
    rows = [("begins with", f"the weights of {_hashed(pretrained)}")] if pretrained is not None else []
    if distillation is not None:
        teachers = " and ".join(_hashed(teacher) for teacher in distillation.teachers)
        rows.append(("learns from", f"{teachers}: {distillation.share:g} of the loss"))
    return rows


def _hashed(weights: WeightsSource) -> str:
    return f"{weights.source}, SHA-256 {weights.sha256[:12]}..." if weights.sha256 else weights.source


def _batch_rows(plan: Plan) -> list[tuple[str, str]]:
    last = f", the last of {plan.last_micro_batch}" if plan.last_micro_batch != plan.micro_batch else ""
    short = f", the last batch of an epoch has {plan.last_batch:,}" if plan.last_batch != plan.global_batch else ""
    return [
        ("ranks", f"{plan.num_ranks}"),
        ("global batch", f"{plan.global_batch:,} samples a step{short}"),
        (
            "micro-batches",
            f"ceil({plan.global_batch} / {plan.micro_batch}) = {plan.micro_batches_per_step} a step{last}; "
            f"{_range(plan.micro_batches_per_rank)} a rank",
        ),
        ("samples per rank", f"{_range(plan.samples_per_rank)} an epoch"),
        ("shards per rank", f"{_range(plan.shards_per_rank)} an epoch" if plan.shards_per_rank else "any"),
        ("steps", f"{_steps(plan)} = {plan.total_steps:,}, {plan.samples_in_all:,} samples in all"),
        *_ramp_rows(plan),
    ]


def _steps(plan: Plan) -> str:
    if plan.phases:
        return f"{plan.epochs} epochs: " + " + ".join(f"{phase.steps:,}" for phase in plan.phases)
    return f"{plan.steps_per_epoch:,} an epoch x {plan.epochs} epochs"


def _ramp_rows(plan: Plan) -> list[tuple[str, str]]:
    return [
        (
            "batch ramp" if number == 0 else "",
            f"from step {phase.first_step:,} (epoch {phase.first_epoch:.4g}): {phase.global_batch:,} samples in "
            f"{phase.micro_batches_per_step:,} micro-batches, {phase.steps:,} steps, "
            f"peak learning rate {phase.peak_learning_rate:.6g}",
        )
        for number, phase in enumerate(plan.phases)
    ]


def _rate_rows(job: Job, plan: Plan) -> list[tuple[str, str]]:
    formula = {
        "none": f"{plan.base_learning_rate:g}, not scaled",
        "linear": f"{plan.base_learning_rate:g} x {plan.global_batch} / {plan.base_batch}",
        "sqrt": f"{plan.base_learning_rate:g} x sqrt({plan.global_batch} / {plan.base_batch})",
    }[plan.scaling]
    schedule = job.recipe.schedule
    return [
        ("optimizer", f"{job.recipe.optimizer.name}, peak learning rate {formula} = {plan.peak_learning_rate:.6g}"),
        (
            "schedule",
            f"{schedule.name}, warmup {plan.warmup_epochs:g} epochs = {plan.warmup_steps:,} steps",
        ),
        ("precision", job.recipe.precision.name),
        ("engine", f"{job.recipe.engine.name} on {job.cluster.device}, backend {job.cluster.backend.name}"),
    ]


def _model_rows(job: Job, model: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        (
            "model",
            f"{job.recipe.model.name}, {model['parameters']:,} parameters, {model['trainable_parameters']:,} trained",
        ),
        *(("  changed", change) for change in model["changes"]),
        ("optimizer covers", model["groups"]),
        ("memory per rank", _state(job, model)),
    ]
    activations = model["activation_bytes"]
    if activations is not None:
        rows.append(("", f"{size(activations)} more for the activations of a micro-batch"))
    rows.append(("checkpoint", size(model["checkpoint_bytes"])))
    return rows


def _state(job: Job, model: dict[str, Any]) -> str:
    whole = sum(model.get(f"{part}_bytes", 0) for part in ("weight", "gradient", "optimizer", "teacher"))
    of_rank = state_bytes(model, job.recipe, job.cluster)
    shared = f" ({size(whole)} in all; engine {job.recipe.engine.name} shares them out)" if of_rank < whole else ""
    return f"{size(of_rank)} for weights, gradients and optimizer{shared}"


def print_summary(result: dict[str, Any], run_dir: str) -> None:
    """Print how a finished run ended and what can be done with it next."""
    test = result.get("test")
    table = _table("finished")
    table.add_row(
        "trained", f"{result['step']:,} steps, {result['samples_seen']:,} samples in {result['seconds']:.0f} s"
    )
    if result.get("best_step") is not None:
        table.add_row("best validation", f"{result['best_value']:.4g} after step {result['best_step']:,}")
    if test:
        name = main_metric_in(test)
        what = "accuracy" if name == "top1" else METRICS[name].title
        shown = f"[bold]{METRICS[name].shown(test[name])}[/] of {test['samples']:,} images, loss {test['loss']:.4f}"
        table.add_row(f"test {what}", shown)
    table.add_row("run folder", run_dir)
    table.add_row("report", f"{run_dir}/report.html")
    table.add_row("next", f"megabatch eval {run_dir} --split test --checkpoint last")
    table.add_row("", f"less {run_dir}/metrics.jsonl")
    Console().print(table, soft_wrap=True)


def print_evaluation(result: dict[str, Any]) -> None:
    """Print the result of one evaluation."""
    table = _table(f"{result['split']}, {result['checkpoint']}")
    table.add_row("samples", f"{result['samples']:,}")
    for name in (name for name in METRICS if name in result and name != "loss"):
        shown = METRICS[name].shown(result[name])
        table.add_row(METRICS[name].title, f"[bold]{shown}[/]" if name == main_metric_in(result) else shown)
    table.add_row("loss", f"{result['loss']:.4f}")
    Console().print(table)


def print_config(loaded: Loaded, origin: bool) -> None:
    """Print recipe and cluster as YAML, or with `origin` as a table of key, value and where it comes from."""
    parts = (("recipe", loaded.recipe, loaded.recipe_tree), ("cluster", loaded.cluster, loaded.cluster_tree))
    console = Console()
    for name, model, tree in parts:
        if not origin:
            console.print(f"# {name}", style="dim")
            console.print(
                yaml_text(model.model_dump(mode="json")), markup=False, highlight=False, soft_wrap=True, end=""
            )
            continue
        columns = [Column(header, overflow="fold") for header in ("key", "value", "from")]
        table = Table(*columns, title=name, title_justify="left", box=None, pad_edge=False)
        for path, value in leaves(model.model_dump(mode="json")):
            table.add_row(".".join(map(str, path)), str(value), _origin(tree, path), style=None)
        console.print(table)


def config_values(loaded: Loaded, origin: bool) -> dict[str, Any]:
    """Return recipe and cluster as JSON has them; with `origin` also where each key comes from."""
    parts = (("recipe", loaded.recipe, loaded.recipe_tree), ("cluster", loaded.cluster, loaded.cluster_tree))
    values: dict[str, Any] = {name: model.model_dump(mode="json") for name, model, _ in parts}
    if origin:
        values["origins"] = {
            ".".join(map(str, (name, *path))): _origin(tree, path)
            for name, model, tree in parts
            for path, _ in leaves(model.model_dump(mode="json"))
        }
    return values


def yaml_text(values: dict[str, Any], leaves_inline: bool = False) -> str:
    """Return plain values as YAML, in their own order; with `leaves_inline` what holds only scalars is `{a: 1}`."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None if leaves_inline else False
    yaml.width = 110
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = io.StringIO()
    yaml.dump(values, text)
    return text.getvalue()


def leaves(value: Any, path: KeyPath = ()) -> list[tuple[KeyPath, Any]]:
    """Return nested values with the path of keys that leads to each; a list of plain values is one.

    >>> leaves({"a": {"b": 1, "c": [1, 2]}, "d": [{"e": 3}]})
    [(('a', 'b'), 1), (('a', 'c'), [1, 2]), (('d', 0, 'e'), 3)]
    """
    if isinstance(value, dict) and value:
        return [leaf for key, child in value.items() for leaf in leaves(child, (*path, key))]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [leaf for i, child in enumerate(value) for leaf in leaves(child, (*path, i))]
    return [(path, value)]


def _origin(tree: Tree, path: KeyPath) -> str:
    """Return where a value was written; a key that stands in no file has its default."""
    if path in tree.origins:
        return tree.origins[path]
    if path[-1] == "name" and path[:-1] in tree.origins and len(path) > 1:
        return tree.origins[path[:-1]]  # the short form `optimizer: lars`
    return "default"


def _range(pair: tuple[int, int]) -> str:
    return f"{pair[0]:,}" if pair[0] == pair[1] else f"{pair[0]:,} to {pair[1]:,}"
