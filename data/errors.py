"""What is wrong with somebody's data, as a message that names file, place and remedy."""

from __future__ import annotations


class DataError(ValueError):
    """A shard, an index or a data set cannot be used."""
