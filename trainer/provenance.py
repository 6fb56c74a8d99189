"""What a checkpoint says about where it comes from, beside what is needed to go on."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.data.sources.places import visible
from megabatch.trainer.own_code import own_code


def provenance(job: Job, run_dir: RunDir) -> dict[str, Any]:
    """Return recipe, data and own code, the versions of what runs them, and the run's id at Weights & Biases if any."""
    wandb_id = run_dir.wandb_id.read_text(encoding="utf-8").strip() if run_dir.wandb_id.exists() else None
    return {
        "recipe": shown_recipe(job), "data": job.data_contents, "code": _code(Path(job.working_folder)),
        "versions": versions(), "wandb_id": wandb_id,
    }  # fmt: skip


@cache
def _code(folder: Path) -> dict[str, str]:
    """Return the user's code as it was at the first save: what a process has loaded it keeps."""
    return own_code(folder)


def versions() -> dict[str, str]:
    """Return the versions of all that the bits of a result may depend on."""
    return {"megabatch": version("megabatch"), "torch": torch.__version__, "python": platform.python_version()}


def other_versions(before: dict[str, str]) -> str | None:
    """Return a warning if a checkpoint's versions are not those of this process."""
    now = versions()
    changed = [
        f"{name} {before[name]}, this is {now[name]}" for name in now if before.get(name, now[name]) != now[name]
    ]
    if not changed:
        return None
    return f"written with {'; '.join(changed)}. Going on is not bit for bit what it would have been there"


def shown_recipe(job: Job) -> dict[str, Any]:
    """Return the recipe without what URLs may hold: passwords and signatures."""
    recipe = job.recipe.model_dump(mode="json")
    for place in (recipe["data"], *recipe["data"]["sources"]):
        place["path"] = place["path"] and visible(place["path"])
    mlflow = recipe["tracking"]["mlflow"]
    if mlflow is not None:
        mlflow["uri"] = mlflow["uri"] and visible(mlflow["uri"])
    return recipe
