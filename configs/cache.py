"""Where shards from elsewhere are kept on a node. Belongs to the cluster: no result depends on it."""

from __future__ import annotations

from megabatch.configs.base import EnvironmentText, Frozen, NonNegativeInt, PositiveFloat, PositiveInt


class Cache(Frozen):
    """Where shards from http, s3 and gs are kept: one copy on each node, whatever number of its ranks read it.

    `folder: null` is the user's own, `$XDG_CACHE_HOME/megabatch` or `~/.cache/megabatch`. A fast disk of the node is
    the best place. The shard that was used longest ago makes room for the next one. `attempts` are counted without
    progress, and `timeout_seconds` is how long a server may stay silent, or be slower than 1 KiB a second.
    """

    folder: EnvironmentText | None = None
    max_gibibytes: PositiveFloat = 100.0
    prefetch_shards: NonNegativeInt = 4
    attempts: PositiveInt = 8
    timeout_seconds: PositiveFloat = 30.0

    @property
    def max_bytes(self) -> int:
        """Return the size that the cached shards may have together."""
        return int(self.max_gibibytes * (1 << 30))
