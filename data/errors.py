"""What is wrong with somebody's data, as a message that names file, place and remedy."""

from __future__ import annotations

from typing import NamedTuple


class DataError(ValueError):
    """A shard, an index or a data set cannot be used."""


class SkippedSample(NamedTuple):
    """A sample that takes part with weight 0. `reason` is one of few words, to count by; `message` tells the rest."""

    reason: str
    shard: str
    key: str
    sample_id: int
    message: str


class SampleError(DataError):
    """One sample cannot be used; `sample` says which and why."""

    def __init__(self, sample: SkippedSample):
        super().__init__(sample.message)
        self.sample = sample
