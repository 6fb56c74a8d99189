"""F28: the clock of one rank jumps an hour ahead in the middle of a run, and then two hours back. Nothing follows from it.

The clock is turned where Python reads it: under libfaketime torch's own waits go wrong, which no real jump does, since
the kernel counts those on a clock that never jumps.
"""

from __future__ import annotations

import os
import time

import pytest

from megabatch.configs.metrics import read_metrics
from megabatch.trainer import checkpoint, loop
from support.ranks import FINISHED, train_in_new_ranks
from support.runs import Workplace, losses, trained_samples
from support.training import at_steps, training

JUMPING = """
import os, time
from megabatch.trainer import loop

HOUR, now, now_ns, take_step = 3600, time.time, time.time_ns, loop.take_step
steps = 0

def offset():
    return 0 if steps < 7 else HOUR if steps < 16 else -2 * HOUR

def step(*arguments):
    global steps
    steps += 1
    return take_step(*arguments)

def jumping(num_classes):
    if os.environ.get("RANK") == "VICTIM":
        time.time, time.time_ns = (lambda: now() + offset()), (lambda: now_ns() + offset() * 10**9)
        loop.take_step = step
    from network import small
    return small(num_classes)
"""
SAVED = ("epochs=9", "checkpoint.every_epochs=9", "checkpoint.every_steps=5", "checkpoint.every_minutes=1")


@pytest.mark.processes
def test_a_clock_that_jumps_on_one_rank_changes_neither_losses_nor_checkpoints(workplace: Workplace) -> None:
    runs = [workplace.job("steady", 2, *SAVED)]
    for rank in (0, 1):
        (workplace.folder / f"jumps_{rank}.py").write_text(JUMPING.replace("VICTIM", str(rank)))
        runs.append(workplace.job(f"jumps-{rank}", 2, *SAVED, f"model={{name: 'jumps_{rank}:jumping'}}"))
    assert not train_in_new_ranks(runs, 2)  # their clocks stay wrong
    for run_dir in runs:
        assert (run_dir.root / FINISHED).exists()
        assert losses(run_dir) == losses(runs[0])
        assert trained_samples(run_dir) == trained_samples(runs[0])
        assert [line["step"] for line in read_metrics(run_dir.metrics, "checkpoint")] == [5, 10, 15, 20, 25, 27]
        assert checkpoint.steps_saved(run_dir) == [25, 27]
    times = [line["time"] for line in read_metrics(runs[1].metrics, "step")]  # the clock of rank 0 did jump
    assert max(times) - times[0] > 3000
    assert times[-1] < times[0] - 3000


def test_the_newest_checkpoint_is_that_of_the_last_step_whatever_the_times_of_the_files(workplace: Workplace) -> None:
    with training(workplace, "turned-back", "epochs=3") as parts:
        loop.train(parts)
        run_dir = parts.run_dir
    older, newer = (run_dir.checkpoint(step) for step in checkpoint.steps_saved(run_dir))
    for folder, when in ((older, time.time() + 3600), (newer, time.time() - 7200)):
        for path in (*folder.iterdir(), folder):
            os.utime(path, (when, when))
    assert checkpoint.newest(run_dir) == (newer, [])
    assert checkpoint.chosen(run_dir, "last") == newer
    checkpoint.prune(run_dir, 1, set())
    assert list(run_dir.checkpoints.iterdir()) == [newer]


def test_a_save_by_time_is_not_due_because_the_clock_jumps(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, asked = time.time, []
    with training(workplace, "by-time", "epochs=3", "checkpoint.every_epochs=3", "checkpoint.every_minutes=5") as parts:

        def jump() -> None:
            monkeypatch.setattr(time, "time", lambda: clock() + 3600)
            asked.append(parts.saver.due())

        at_steps(parts, {4: jump})
        loop.train(parts)
        assert asked == [False]
        assert checkpoint.steps_saved(parts.run_dir) == [9]
