"""What `megabatch launch` and `megabatch eval` do: prepare, show, and hand over to a backend."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabatch.configs.cluster import Cluster
from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.layers import apply_override
from megabatch.configs.load import layered_tree, load, validate, validate_cluster
from megabatch.configs.recipe import Recipe
from megabatch.configs.run_dir import RunDir
from megabatch.configs.run_lock import RunFolderError, require_free
from megabatch.configs.yaml_tree import Tree
from megabatch.data.arrangement import changes_of_data, shown_data
from megabatch.launcher import slurm_queue
from megabatch.launcher.backends.choose import backend_of
from megabatch.launcher.prepare import Prepared, check
from megabatch.launcher.save_job import find_run, saved_job, write_job
from megabatch.launcher.starter import Starter
from megabatch.launcher.submission import Submission
from megabatch.launcher.supervise import Ending, supervise


@dataclass(frozen=True)
class Resumed:
    """A run that goes on, perhaps on another cluster."""

    run_dir: RunDir
    prepared: Prepared


def resume(which: str, recipe: str | None, cluster: str | None, overrides: Sequence[str]) -> Resumed:
    """Find the run and check its job again. Only the cluster and the engine may change. Raises ConfigError."""
    recipe_name = load(recipe, "laptop").recipe.name if recipe else None
    run_dir = find_run(which, recipe_name)
    job = saved_job(run_dir)
    prepared = check(changed_job(job, cluster, overrides))
    require_same_data(run_dir, job, prepared.job)
    return Resumed(run_dir, prepared)


def changed_job(job: Job, cluster: str | None, overrides: Sequence[str]) -> Job:
    """Return the job on another cluster or with another engine. Raises ConfigError for any other change."""
    of_cluster = [text.removeprefix("cluster.") for text in overrides if text.startswith("cluster.")]
    of_engine = [text for text in overrides if re.match(r"engine[.=]", text)]
    of_recipe = [text for text in overrides if not text.startswith("cluster.") and text not in of_engine]
    if of_recipe:
        problem = (
            "a run keeps its recipe: only cluster.* and engine can change with --resume. "
            "Start a new run for another recipe"
        )
        raise ConfigError(Problem(f"command line, {text}", problem) for text in of_recipe)
    changes = {"cluster": _changed_cluster(job, cluster, of_cluster), "recipe": _changed_engine(job, of_engine)}
    return job.model_copy(update=changes)


def require_same_data(run_dir: RunDir, job: Job, now: Job) -> None:
    """Raise ConfigError if the data are not those with which the run began."""
    if now.data_fingerprint != job.data_fingerprint:
        changed = changes_of_data(job, now.data_contents)
        problem = f"the data in {shown_data(now)} changed since the run began{changed}: put it back, or start a new run"
        raise ConfigError([Problem(str(run_dir.root), problem)])


def _changed_cluster(job: Job, cluster: str | None, overrides: list[str]) -> Cluster:
    if cluster is not None:
        tree = layered_tree(cluster, "clusters", overrides, "cluster.")
    else:
        tree = Tree(job.cluster.model_dump(mode="json"), {(): "job.yaml"})
        for text in overrides:
            apply_override(tree, text, "cluster.")
    return validate_cluster(tree)


def _changed_engine(job: Job, overrides: list[str]) -> Recipe:
    tree = Tree(job.recipe.model_dump(mode="json"), {(): "job.yaml"})
    for text in overrides:
        apply_override(tree, text)
    return validate(Recipe, tree) if overrides else job.recipe


def render(job: Job, run_dir: RunDir, trainer_arguments: Sequence[str] = ()) -> Submission:
    """Return what would be run."""
    return backend_of(job).render(job, run_dir, trainer_arguments)


def start(
    job: Job,
    run_dir: RunDir,
    say: Callable[[str], None],
    trainer_arguments: Sequence[str] = (),
    starter: Starter | None = None,
) -> Ending:
    """Write job.yaml and run or submit the job; where there is a starter, it does what the local backend would.

    Raises ConfigError, having written nothing, if the folder is in use, waits for Slurm, or cannot be written.
    """
    try:
        require_free(run_dir.lock)
    except RunFolderError as error:
        raise ConfigError([Problem("", str(error))]) from None
    slurm_queue.require_none_queued(run_dir)
    write_job(job, run_dir.job)
    run_dir.slurm_job.unlink(missing_ok=True)
    if starter is not None:
        return supervise(lambda: starter.start(run_dir, trainer_arguments), run_dir, say)
    submission = render(job, run_dir, trainer_arguments)
    submission.write_files()
    return backend_of(job).submit(submission, job, run_dir, say)


def is_finished(run_dir: RunDir) -> bool:
    """Return whether the run has trained on its last sample."""
    return bool(read_result(run_dir.result).get("outcome") == "finished")


def read_result(file: Path) -> dict[str, Any]:
    """Return the content of a result file, or an empty dict where there is none."""
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return values
