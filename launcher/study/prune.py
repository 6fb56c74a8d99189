"""`megabatch prune`: the recipe that prunes a run and trains it further."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from megabatch.configs.job import Job
from megabatch.configs.recipe import Recipe
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.study.further import further_epochs, further_recipe


def pruning_recipe(
    source: RunDir, job: Job, pruning: dict[str, Any], epochs: int | None, overrides: Sequence[str]
) -> Recipe:
    """Return the recipe of a run with another pruning, shorter, from its best checkpoint. Raises ConfigError."""
    schedule = _default_schedule(pruning, further_epochs(job, epochs))
    changes = {"name": f"{job.recipe.name[:73]}-pruned", "pruning": {**pruning, **schedule}}
    return further_recipe(source, job, changes, epochs, overrides)


def _default_schedule(pruning: dict[str, Any], epochs: int) -> dict[str, Any]:
    if pruning["name"] != "magnitude":
        return {}
    return {"schedule": {"name": "cubic", "end": round(0.6 * epochs, 2), "every_steps": 10}}
