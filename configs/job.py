"""A Job is everything that crosses from the launcher to the ranks: recipe, cluster, and what they were resolved to."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any, Literal

from megabatch.configs.base import Frozen
from megabatch.configs.cluster import Cluster
from megabatch.configs.recipe import Recipe

# Where results are shown, how often state is written, how ranks share: changing these does not change what is trained.
_NOT_TRAINED = ("name", "tracking", "checkpoint", "engine")


class Job(Frozen):
    """The content of RUN_DIR/job.yaml."""

    format: Literal["megabatch-job-1"] = "megabatch-job-1"
    recipe: Recipe
    cluster: Cluster
    working_folder: str
    data_fingerprint: str
    data_contents: dict[str, str] = {}
    """What the data are in words, for messages that say what changed."""
    version: str

    @property
    def data_locations(self) -> tuple[str, ...]:
        """Return what names each data set: a path (a relative one starts at working_folder), a spec or a URL."""
        data = self.recipe.data
        return (data.path,) if data.path is not None else tuple(source.path for source in data.sources)

    def fingerprint(self) -> str:
        """Return the SHA-256 of all that decides the result: recipe and data, not the cluster."""
        recipe = decisive(self.recipe.model_dump(mode="json"))
        text = json.dumps({"recipe": recipe, "data": self.data_fingerprint}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def decisive(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return of a recipe, as plain values, what decides the result: not where files lie, but what is in them."""
    recipe = {key: copy.deepcopy(value) for key, value in recipe.items() if key not in _NOT_TRAINED}
    data = recipe.get("data", {})
    for place in (data, *data.get("sources", ())):
        place.pop("path", None)
    for file in ("subset", "mask"):  # the data fingerprint has what they choose
        data.pop(file, None)
    data.get("sampling", {}).pop("file", None)
    teachers = (recipe.get("distillation") or {}).get("teachers", ())
    ewc = recipe.get("regularization", {}).get("ewc")
    for weights in (recipe.get("model", {}).get("pretrained"), ewc, *teachers):
        if weights is not None and weights["sha256"]:
            weights.pop("source")
    return recipe
