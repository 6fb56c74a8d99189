"""Which steps get a checkpoint and which checkpoints stay."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from megabatch.configs.metrics import read_metrics
from megabatch.configs.recipe import Recipe
from megabatch.trainer import checkpoint, loop, saver
from megabatch.trainer.build import Parts
from support.runs import Workplace
from support.training import training

STEPS_PER_EPOCH = 3


def steps_kept(parts: Parts) -> list[int]:
    loop.train(parts)
    return checkpoint.steps_saved(parts.run_dir)


def steps_written(parts: Parts) -> list[int]:
    return [line["step"] for line in read_metrics(parts.run_dir.metrics, "checkpoint")]


def test_the_checkpoint_of_every_nth_epoch_is_written_and_stays(workplace: Workplace) -> None:
    with training(workplace, "for-good", "epochs=8", "checkpoint={every_epochs: 2, keep_every_epochs: 3}") as parts:
        assert steps_kept(parts) == [9, 18, 24]  # after epochs 3 and 6, and the newest two
        assert steps_written(parts) == [STEPS_PER_EPOCH * epoch for epoch in (2, 3, 4, 6, 8)]


def test_checkpoints_kept_for_good_are_counted_when_the_disk_is_looked_at(workplace: Workplace) -> None:
    with training(workplace, "counted", "epochs=8", "checkpoint.keep_every_epochs=3") as parts:
        recipe: Recipe = parts.job.recipe
        assert recipe.kept_checkpoints == 2 + 1 + 2


def test_the_checkpoint_at_the_end_of_each_cycle_is_written_and_stays(workplace: Workplace) -> None:
    cycles = "schedule={name: cosine_restarts, cycles: 3}"
    with training(workplace, "cycles", "epochs=12", cycles, "checkpoint={every_epochs: 7}") as parts:
        assert steps_kept(parts) == [12, 24, 36]
        assert steps_written(parts) == [STEPS_PER_EPOCH * epoch for epoch in (4, 7, 8, 12)]
        assert parts.job.recipe.kept_checkpoints == 2 + 1 + 3


def test_a_save_is_due_some_minutes_after_the_last_one_whatever_that_was_for(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step takes a minute of this clock. A save is due from 4 minutes on, and seen at the end of that step."""
    minutes = -1.0

    def clock() -> float:
        return 60 * minutes

    monkeypatch.setattr(saver, "time", SimpleNamespace(monotonic=clock, perf_counter=time.perf_counter))
    timed = "checkpoint={every_minutes: 4, every_epochs: 3, keep_last: 20}"
    with training(workplace, "timed", "epochs=7", timed) as parts:
        begin = parts.step_parts.batch_norm.begin

        def begin_of_a_step() -> None:
            nonlocal minutes
            minutes += 1
            begin()

        monkeypatch.setattr(parts.step_parts.batch_norm, "begin", begin_of_a_step)
        assert steps_kept(parts) == [4, 8, 9, 13, 17, 18, 21]


def test_nobody_looks_at_the_clock_where_no_save_is_due_by_time(workplace: Workplace) -> None:
    with training(workplace, "untimed", "epochs=1") as parts:
        assert parts.step_parts.save_due is None
