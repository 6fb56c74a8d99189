"""A run whose network another run begins with, changed: the recipe for that, its start, and the two side by side.

What `megabatch prune` and `megabatch fuse` have in common.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.layers import apply_override
from megabatch.configs.load import validate
from megabatch.configs.recipe import Recipe
from megabatch.configs.run_dir import CHECKPOINT_PREFIX, RunDir
from megabatch.configs.yaml_tree import Tree
from megabatch.launcher import launch, run_commands
from megabatch.launcher.command import child_environment
from megabatch.launcher.from_here import from_here
from megabatch.launcher.render import yaml_text
from megabatch.launcher.save_job import find_run, require_new, saved_job, unused_folder
from megabatch.launcher.study.process import StudyFailedError
from megabatch.launcher.supervise import Ending, ExitCode

COMPARISON = "pruning.json"
NAMES = ("dense", "pruned")


def source_run(which: str) -> tuple[RunDir, Job]:
    """Return the run to prune and its job. Raises ConfigError if it has no checkpoint, or belongs to another folder."""
    run_dir = find_run(which, None)
    job = saved_job(run_dir)
    if not any(run_dir.checkpoints.glob(f"{CHECKPOINT_PREFIX}*/manifest.json")):
        raise ConfigError([Problem(which, "has no checkpoint yet: train it first (megabatch launch)")])
    if Path(job.working_folder).resolve() != Path.cwd().resolve():
        problem = "its data and modules are found from the folder where it was started"
        raise ConfigError([Problem(which, f"{problem}: cd {job.working_folder}, then start the command again")])
    return run_dir, job


def further_recipe(
    source: RunDir, job: Job, changes: dict[str, Any], epochs: int | None, overrides: Sequence[str]
) -> Recipe:
    """Return the recipe of a run, changed, from its best checkpoint, by default a third as long. Raises ConfigError.

    Optimizer and schedule stay: the learning rate rises to its peak and falls again over the new epochs, which trains
    a pruned network better than its last, small one (Renda et al. 2020; Le and Hua 2021).
    """
    length = further_epochs(job, epochs)
    values = {**job.recipe.model_dump(mode="json"), "epochs": length, "seed": job.recipe.seed + 1, **changes}
    values["model"]["pretrained"] = {"source": from_here(source.root)}
    warmup = values["schedule"].get("warmup")
    if isinstance(warmup, int | float):
        values["schedule"]["warmup"] = min(warmup, length / 4)
    tree = Tree(values, {(): str(source.job)})
    for text in overrides:
        apply_override(tree, text)
    return validate(Recipe, tree)


def further_epochs(job: Job, epochs: int | None) -> int:
    """Return for how long: what was asked for, else a third of the epochs of the run."""
    return max(1, -(-job.recipe.epochs // 3)) if epochs is None else epochs


def write_recipe(recipe: Recipe, source: RunDir, chosen: Path | None, command: str = "prune") -> RunDir:
    """Make the run folder with nothing but the recipe in it. Raises ConfigError if it is taken."""
    folder = chosen or unused_folder(recipe.name)
    require_new(folder)
    folder.mkdir(parents=True, exist_ok=True)
    run_dir = RunDir(folder)
    head = f"# Written by megabatch {command} from {from_here(source.job)}. Keys that are not here have defaults.\n"
    values = readable(recipe)
    if recipe.pruning is not None:  # all of it, defaults too: it is what the recipe is about
        values["pruning"] = recipe.pruning.model_dump(mode="json", exclude={"sha256"})
    run_dir.recipe.write_text(head + yaml_text(values), encoding="utf-8")
    return run_dir


def train(run_dir: RunDir, cluster: str, overrides: Sequence[str]) -> int:
    """Start the recipe of the folder as `megabatch launch` does; leave no folder where nothing could start."""
    try:
        return run_commands.start_run(str(run_dir.recipe), cluster, overrides, run_dir.root)
    except ConfigError:
        if not run_dir.job.exists():
            run_dir.recipe.unlink()
            run_dir.root.rmdir()
        raise


def compared(
    dense: RunDir, pruned: RunDir, job: Job, names: tuple[str, str] = NAMES, file: str = COMPARISON
) -> dict[str, dict[str, Any]]:
    """Return accuracy, sizes and times of both runs, and write them to a file of the second. Raises StudyFailedError.

    `names` are what the two are called there.
    """
    folders = [str(run.root.absolute()) for run in (dense, pruned)]
    command = [sys.executable, "-m", "megabatch.trainer.sizes", *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=child_environment(job))
    if done.returncode != 0:
        raise StudyFailedError(Ending(ExitCode.FAILED, f"the networks could not be compared:\n{done.stderr.strip()}"))
    found: dict[str, dict[str, Any]] = dict(zip(names, json.loads(done.stdout.splitlines()[-1]), strict=True))
    for values, run in zip(found.values(), (dense, pruned), strict=True):
        result = launch.read_result(run.result)
        values["validation"] = result.get("best_value")
        values["test"] = result.get("test", {}).get(job.recipe.metric)
    (pruned.root / file).write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def comparison_rows(found: dict[str, dict[str, Any]], metric: str) -> list[tuple[str, str, str, str]]:
    """Return what is printed: what, dense, pruned (or what `compared` calls them), and how they differ."""
    dense, pruned = found.values()
    numbers: list[tuple[str, str, Callable[[float], str]]] = [
        ("parameters", "parameters", "{:,.0f}".format),
        ("not zero", "nonzero", "{:,.0f}".format),
        ("operations for an image", "flops", "{:,.0f}".format),
        ("bytes on disk", "bytes", "{:,.0f}".format),
        ("1 image, ms", "milliseconds_1", "{:.3f}".format),
        ("32 images, ms", "milliseconds_32", "{:.2f}".format),
    ]
    measured = [
        (f"{split} {metric}", f"{dense[split]:.4f}", f"{pruned[split]:.4f}", f"{pruned[split] - dense[split]:+.4f}")
        for split in ("validation", "test")
        if dense[split] is not None and pruned[split] is not None
    ]
    return measured + [
        (title, shown(dense[key]), shown(pruned[key]), f"x {pruned[key] / dense[key]:.2f}")
        for title, key, shown in numbers
    ]


def readable(model: BaseModel) -> dict[str, Any]:
    """Return a recipe without what is as the schema has it by default; a choice keeps its name."""
    fields = type(model).model_fields
    values = {key: getattr(model, key) for key in sorted(fields, key=lambda key: key != "name")}
    return {
        key: _plain(value)
        for key, value in values.items()
        if key == "name" or fields[key].is_required() or value != fields[key].default
    }


def _plain(value: Any) -> Any:  # Any: a value of the schema, and what YAML can have of it
    if isinstance(value, BaseModel):
        return readable(value)
    if isinstance(value, dict):
        return {key: _plain(child) for key, child in value.items()}
    return [_plain(child) for child in value] if isinstance(value, list | tuple) else value
