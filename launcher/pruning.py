"""Settles what `pruning` means before a job is written: does it fit the run it begins with, and which plan it has.

The plan of removed channels is made where torch is, when the model is inspected; here it gets into the run folder, and
its SHA-256 into job.yaml.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.pruning import Channels, Inherited, Magnitude, NOfM, plan_hash
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.pretrained import recipe_of_checkpoint
from megabatch.launcher.save_job import new_run_dir


def with_pruning(job: Job) -> Job:
    """Return the job with the plan that it inherits from `model.pretrained`; a run that has begun stays as it is.

    Raises ConfigError where the network of the source is pruned in another way than this recipe would have it.
    """
    pretrained, pruning = job.recipe.model.pretrained, job.recipe.pruning
    if job.data_fingerprint or pretrained is None or pretrained.of_timm:
        return job
    source = _pruning_of(Path(job.working_folder) / pretrained.source)
    problem = _misfit(pruning, source, pretrained.source)
    if problem:
        raise ConfigError([Problem("pruning", problem)])
    if isinstance(pruning, Inherited) and source is not None:
        return _with_hash(job, source.get("sha256"))
    return job


def has_plan(job: Job) -> bool:
    """Return whether a plan of removed channels belongs to the job, which the inspection of the model tells."""
    return isinstance(job.recipe.pruning, Channels) or plan_hash(job.recipe.pruning) is not None


def require_no_plan(job: Job, command: str) -> None:
    """Raise ConfigError for a network that has lost channels, with a command whose runs get no plan of them."""
    if has_plan(job):
        problem = (
            "the channels that are left are in a plan in the "
            f"run folder, and `megabatch {command}` makes none. Leave pruning out, or write name: magnitude"
        )
        raise ConfigError([Problem("pruning", problem)])


def new_run_with_plan(job: Job, chosen: Path | None, found: dict[str, Any]) -> tuple[Job, RunDir]:
    """Make a run folder with the plan that the inspection of the model found, if any; return the job with its hash."""
    text: str | None = found.get("pruning_plan")
    if text is None:
        return job, new_run_dir(job, chosen)
    job = _with_hash(job, hashlib.sha256(text.encode()).hexdigest())
    run_dir = new_run_dir(job, chosen)
    run_dir.pruning_plan.write_text(text, encoding="utf-8")
    return job, run_dir


def _with_hash(job: Job, found: str | None) -> Job:
    pruning = job.recipe.pruning
    assert isinstance(pruning, Channels | Inherited)
    if plan_hash(pruning) not in (None, found):
        seen = f"the plan has {found}, pruning.sha256 is {plan_hash(pruning)}"
        raise ConfigError([Problem("pruning", f"is not what it was: {seen}. Leave pruning.sha256 out")])
    recipe = job.recipe.model_copy(update={"pruning": pruning.model_copy(update={"sha256": found})})
    return job.model_copy(update={"recipe": recipe})


def _pruning_of(checkpoint: Path) -> dict[str, Any] | None:
    """Return how the run of a checkpoint, or of a file in one, was pruned, as its recipe says; None if it was not."""
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    if folder is not checkpoint and not (folder / "state.json").exists():
        return None
    found: dict[str, Any] | None = recipe_of_checkpoint(folder).get("pruning")
    if folder is not checkpoint and found and not found.get("sha256"):
        return None  # the weights of a file, without what else belongs to the checkpoint: its zeros are just numbers
    return found


def _misfit(
    pruning: Magnitude | NOfM | Channels | Inherited | None, source: dict[str, Any] | None, origin: str
) -> str | None:
    """Return why a recipe and the pruning of its source do not go together."""
    if source is None:
        if not isinstance(pruning, Inherited):
            return None
        return f"inherited: {origin} was not pruned. Write pruning: magnitude, n_of_m or channels, or leave it out"
    smaller = source.get("sha256") is not None
    if pruning is None:
        lost = (
            "has lost channels, so its weights do not fit a whole network" if smaller else "has weights that are zero"
        )
        dense = "" if smaller else (f", or model.pretrained={origin}/model.safetensors to let the zeros grow again")
        return (
            f"{origin} was pruned ({source['name']}) and {lost}. Write pruning: inherited to train it as it is{dense}"
        )
    if isinstance(pruning, Inherited) or not (smaller or isinstance(pruning, Channels)):
        return None
    return (
        f"{pruning.name}: {origin} was pruned already ({source['name']}), and removed channels do not go together with "
        "another pruning. Begin with the run that it came from, or write pruning: inherited"
    )
