"""TensorBoard: event files in RUN_DIR/tensorboard, with `samples_seen` as the step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from megabatch.configs.run_dir import RunDir
from megabatch.trainer.trackers.lines import Line, is_number, metrics_of

_FLUSH_SECONDS = 5  # torch's two minutes would be lost with a rank that is killed


def follow(run_dir: RunDir, lines: Iterator[Line]) -> None:
    """Write every number as a curve. What is trained again takes the place of what was there from that point on."""
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = None  # SummaryWriter has no types
    last = 0
    for line in lines:
        values = metrics_of(line)
        if not values:
            continue
        position = values.pop("samples_seen")
        if writer is None or position < last:
            if writer is not None:
                writer.close()
            # An evaluation may come first, of the step that an earlier attempt ended with: that step stays.
            purged_from = position if line["kind"] == "step" else position + 1
            writer = SummaryWriter(str(run_dir.tensorboard), purge_step=purged_from, flush_secs=_FLUSH_SECONDS)
        last = position
        for name, value in values.items():
            if is_number(value):
                writer.add_scalar(name, value, position, walltime=line["time"])
    if writer is not None:
        writer.close()
