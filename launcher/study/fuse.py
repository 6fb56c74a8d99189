"""`megabatch fuse`: writes the recipe that trains an ensemble on as one network with shared low layers."""

from __future__ import annotations

from collections.abc import Sequence

from megabatch.configs.ensemble import MODEL, ensemble_model, read_options
from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.layers import apply_override
from megabatch.configs.load import validate
from megabatch.configs.recipe import Recipe
from megabatch.configs.run_dir import RunDir
from megabatch.configs.yaml_tree import Tree
from megabatch.launcher.from_here import from_here

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
    length = max(1, -(-job.recipe.epochs // 3)) if epochs is None else epochs
    shared = options.model_copy(update={"share_until": share_until, "learn_weights": learn_weights})
    values = job.recipe.model_dump(mode="json")
    values |= {
        "name": f"{job.recipe.name.removesuffix('-ensemble')[:74]}-fused",
        "epochs": length,
        "seed": job.recipe.seed + 1,
        "model": ensemble_model(shared).model_dump(mode="json"),
    }
    values["model"]["pretrained"] = {"source": from_here(source.root)}
    warmup = values["schedule"].get("warmup")
    if isinstance(warmup, int | float):
        values["schedule"]["warmup"] = min(warmup, length / 4)
    tree = Tree(values, {(): str(source.job)})
    for text in overrides:
        apply_override(tree, text)
    return validate(Recipe, tree)
