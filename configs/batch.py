"""How many samples a step takes, and in which portions."""

from __future__ import annotations

from typing import Literal

from megabatch.configs.base import (
    Frozen,
    PositiveInt,
)


class Batch(Frozen):
    """One optimizer step takes `global_batch` samples, in forward/backward passes of `micro_batch` samples."""

    global_batch: PositiveInt
    micro_batch: PositiveInt
    last_batch: Literal["short", "drop"] = "short"
