"""Keys and tokens in `cluster.environment`: their values would stand in job.yaml, and for some backends in scripts."""

from __future__ import annotations

from megabatch.configs.cluster import Cluster
from megabatch.configs.errors import Problem

_PARTS = {"KEY", "APIKEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD"}
_INSTEAD = {
    "ssh": "set it where you launch, and name it in cluster.backend.pass_environment",
    "kubernetes": "put it into a Secret and name that in cluster.backend.secret",
}


def is_secret(name: str) -> bool:
    """Return whether a variable holds a secret, by its name.

    >>> is_secret("WANDB_API_KEY"), is_secret("hf_token"), is_secret("TOKENIZERS_PARALLELISM")
    (True, True, False)
    """
    return not _PARTS.isdisjoint(name.upper().split("_"))


def secret_problems(cluster: Cluster) -> list[Problem]:
    """Return a problem for each variable of the cluster file that has a secret for a value."""
    instead = _INSTEAD.get(cluster.backend.name, "set it where you start the job; the ranks get it from there")
    return [
        Problem("", f"cluster.environment.{name}: a key or token would be written to job.yaml. Instead: {instead}")
        for name, value in cluster.environment.items()
        if is_secret(name) and value
    ]
