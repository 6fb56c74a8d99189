"""`megabatch fuse`: writes the recipe that trains an ensemble on as one network with shared low layers."""

from __future__ import annotations

from collections.abc import Sequence

from megabatch.configs.ensemble import MODEL, ensemble_model, read_options
from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.recipe import Recipe
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.from_here import from_here
from megabatch.launcher.study.further import further_recipe

COMPARISON = "fusion.json"
NAMES = ("ensemble", "fused")


def fusion_recipe(
    source: RunDir, job: Job, share_until: str, learn_weights: bool, epochs: int | None, overrides: Sequence[str]
) -> Recipe:
    """Return the recipe that begins with the weights of an ensemble, shares layers, and is shorter. Raises ConfigError.

    The layers up to `share_until` are those of the first member; what the others had there is not used. Optimizer and
    schedule are those of the first member's run.
    """
    if job.recipe.model.name != MODEL:
        problem = "is no ensemble: `megabatch ensemble RUN_DIR RUN_DIR --output FOLDER` makes one, and fuse takes that"
        raise ConfigError([Problem(from_here(source.root), problem)])
    options = read_options(job.recipe.model.options)
    if options.share_until is not None:
        problem = f"shares its layers up to {options.share_until} already: name the ensemble that it came from"
        raise ConfigError([Problem(from_here(source.root), problem)])
    if job.recipe.pruning is not None:
        problem = "was pruned as a whole, and lost channels do not fit other layers: fuse first, then prune"
        raise ConfigError([Problem(from_here(source.root), problem)])
    shared = options.model_copy(update={"share_until": share_until, "learn_weights": learn_weights})
    changes = {
        "name": f"{job.recipe.name.removesuffix('-ensemble')[:74]}-fused",
        "model": ensemble_model(shared).model_dump(mode="json"),
    }
    return further_recipe(source, job, changes, epochs, overrides)
