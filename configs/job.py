"""A Job is everything that crosses from the launcher to the ranks: recipe, cluster, and what they were resolved to."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

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
    version: str

    @property
    def data_locations(self) -> tuple[str, ...]:
        """Return what names each data set: a path (a relative one starts at working_folder), a spec or a URL."""
        data = self.recipe.data
        return (data.path,) if data.path is not None else tuple(source.path for source in data.sources)

    def fingerprint(self) -> str:
        """Return the SHA-256 of all that decides the result: recipe and data, not the cluster."""
        recipe = self.recipe.model_dump(mode="json", exclude=set(_NOT_TRAINED))
        for place in (recipe["data"], *recipe["data"]["sources"]):
            place.pop("path")
        for file in ("subset", "mask"):  # the data fingerprint has what they choose
            recipe["data"].pop(file)
        recipe["data"]["sampling"].pop("file", None)
        pretrained = recipe["model"]["pretrained"]
        if pretrained is not None and pretrained["sha256"]:
            pretrained.pop("source")
        text = json.dumps({"recipe": recipe, "data": self.data_fingerprint}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
