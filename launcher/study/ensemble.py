"""`megabatch ensemble`: looks whether networks go together, has ranks evaluate them, leaves one finished run."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import typer

from megabatch.configs.distillation import form_of
from megabatch.configs.engines import Ddp
from megabatch.configs.ensemble import Average, EnsembleOptions, ensemble_model, with_weights
from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.load import layered_tree, validate_cluster
from megabatch.launcher.from_here import from_here
from megabatch.launcher.prepare import check
from megabatch.launcher.save_job import require_new, write_job
from megabatch.launcher.study.members import Found, as_member, members_of, require_together
from megabatch.launcher.study.process import made_run, require_local, run_study, without_tracking

RESULT = "ensemble.json"
Chosen = Literal["uniform", "fitted", "greedy"]


@dataclass(frozen=True)
class Settings:
    """How an ensemble is made. `checkpoint` is best, last or a step; `weights` how much each network counts.

    With `snapshots` every checkpoint that a run kept for good is a member. `cluster` is by default that of the first
    run.
    """

    checkpoint: str = "best"
    average: Average = "probabilities"
    weights: Chosen | tuple[float, ...] = "uniform"
    snapshots: bool = False
    cluster: str | None = None


def combine(runs: Sequence[str], output: Path, settings: Settings) -> dict[str, Any]:
    """Make an ensemble of trained networks as the finished run `output`; return what was measured (ensemble.json).

    `runs` are run folders, or checkpoints in them. Raises ConfigError before anything starts, StudyFailedError later.
    """
    require_new(output)
    members = [found for run in runs for found in members_of(run, settings.checkpoint, settings.snapshots)]
    require_together(members)
    _require_weights(members, settings)
    job = _job_of(members, settings)
    require_local(job, "ensemble")
    job = check(without_tracking(job)).job
    request = {
        "members": [str(member.folder) for member in members],
        "weights": settings.weights if isinstance(settings.weights, str) and settings.weights != "uniform" else "given",
    }
    with made_run(output) as hidden:
        found = run_study(job, hidden, "ensemble", request, _say_stopping)
        write_job(with_weights(job, found["weights"]), hidden.job)
        found = {"metric": job.recipe.metric, "average": settings.average, "members": _told(members, found), **found}
        (hidden.root / RESULT).write_text(json.dumps(found, indent=1), encoding="utf-8")
        hidden.study_result.unlink()
    return found


def _say_stopping(text: str) -> None:
    typer.echo("an ensemble has nothing to save: again stops it at once", err=True)


def _job_of(members: Sequence[Found], settings: Settings) -> Job:
    """Return a job that evaluates the ensemble: the first run's, without what is about its one network."""
    job = members[0].job
    recipe, weights = job.recipe, settings.weights
    scaling = recipe.data.normalize
    networks = tuple(as_member(member, scaling) for member in members)
    options = EnsembleOptions(
        members=networks,
        weights=None if isinstance(weights, str) else weights,
        average=settings.average,
        form=form_of(recipe.data.target, recipe.loss),
        normalize=scaling if any(network.normalize for network in networks) else None,
    )
    changes = {
        "name": f"{recipe.name[:71]}-ensemble", "model": ensemble_model(options), "engine": Ddp(),
        "averaging": None, "pruning": None, "distillation": None,
        "regularization": recipe.regularization.model_copy(update={"dropout": None, "stochastic_depth": None}),
        "optimizer": recipe.optimizer.model_copy(update={"groups": (), "layer_decay": 1.0}),
    }  # fmt: skip
    job = job.model_copy(update={"recipe": recipe.model_copy(update=changes)})
    if settings.cluster is None:
        return job
    cluster = validate_cluster(layered_tree(settings.cluster, "clusters", (), "cluster."))
    return job.model_copy(update={"cluster": cluster})


def _require_weights(members: Sequence[Found], settings: Settings) -> None:
    """Raise ConfigError if the weights are not one for each member, or cannot be chosen by these data."""
    weights, recipe = settings.weights, members[0].job.recipe
    if not isinstance(weights, str):
        if len(weights) != len(members) or not all(0 < weight < math.inf for weight in weights):
            shown = ", ".join(f"{weight:g}" for weight in weights)
            problem = f"are positive numbers, one for each of the {len(members)} members, and not {shown}"
            raise ConfigError([Problem("--weights", problem)])
    elif weights != "uniform" and recipe.data.validation_split is None:
        problem = "are chosen on the validation split, and the recipe of the first run has none: write numbers"
        raise ConfigError([Problem(f"--weights {weights}", problem)])
    elif weights != "uniform" and settings.average == "logits":
        problem = "is for --average probabilities, whose loss is convex in the weights: write numbers"
        raise ConfigError([Problem(f"--weights {weights}", problem)])


def _told(members: Sequence[Found], found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the members as ensemble.json has them."""
    first = members[0].job.data_fingerprint
    return [
        {
            "run": from_here(member.run_dir.root),
            "checkpoint": member.folder.name,
            "sha256": hashlib.sha256((member.folder / "manifest.json").read_bytes()).hexdigest(),
            "weight": weight,
            "same_data": member.job.data_fingerprint == first,
        }
        for member, weight in zip(members, found["weights"], strict=True)
    ]
