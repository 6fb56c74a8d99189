"""What is wrong with somebody's data, as a message that names file, place and remedy."""

from __future__ import annotations

import errno
import resource
from typing import NamedTuple


class DataError(ValueError):
    """A shard, an index or a data set cannot be used."""


class OwnPartError(Exception):
    """A part of the user's own, found by its import path, is missing or does not do what it must."""


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


def open_files_advice(error: OSError) -> str:
    """Return what to do against too many open files; empty for any other error."""
    if error.errno not in (errno.EMFILE, errno.ENFILE):
        return ""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return f"This process may open {allowed:,} files (`ulimit -Hn`), and a shard takes one: allow more"
