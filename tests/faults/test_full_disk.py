"""F10: a disk that is full while checkpoints are saved."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from megabatch.configs.metrics import read_metrics
from megabatch.launcher.cli import app
from megabatch.trainer import checkpoint, loop
from megabatch.trainer.__main__ import _evaluate_test
from support.disks import fill, small_disk
from support.runs import Workplace, losses
from support.training import at_steps, training

EVERY_5 = ("epochs=10", "checkpoint.every_epochs=10", "checkpoint.every_steps=5", "tracking.sample_log=false")


def test_training_goes_on_while_the_disk_is_full_and_loses_neither_checkpoints_nor_lines(workplace: Workplace) -> None:
    with small_disk(workplace.folder / "full-disk") as disk:
        seen: list[tuple[Any, ...]] = []
        with training(workplace, "full-disk/run", *EVERY_5) as parts:

            def look() -> None:
                seen.append((checkpoint.newest(parts.run_dir), sorted(parts.run_dir.checkpoints.iterdir())))

            at_steps(parts, {6: lambda: fill(disk), 17: look, 18: (disk / "filler").unlink})
            assert loop.train(parts) == "finished"
            run_dir = parts.run_dir
        only = run_dir.checkpoint(5)
        assert seen == [((only, []), [only])]  # the older one as it was, and nothing half written
        saves = read_metrics(run_dir.metrics, "checkpoint")
        assert [(line["step"], "error" in line) for line in saves] == [
            (5, False), (10, True), (15, True), (20, False), (25, False), (30, False),
        ]  # fmt: skip
        assert "No space left on device" in saves[1]["error"]
        assert "failure 2 in a row, number 3 ends it" in run_dir.metrics.read_text()
        with training(workplace, "roomy", *EVERY_5) as parts:
            loop.train(parts)
            assert losses(run_dir) == losses(parts.run_dir)


def test_where_the_best_checkpoint_could_not_be_written_the_test_is_that_of_the_last_step(workplace: Workplace) -> None:
    with training(workplace, "no-best", "epochs=2", "data.test_split=test") as parts:
        loop.train(parts)
        parts.state.best_step = 1  # whose checkpoint is not there
        result = _evaluate_test(parts, "test")
        assert result["checkpoint_step"] == parts.state.step == 6
        said = "warning: the best checkpoint, of step 1, could not be written: the test is that of the last step"
        assert said in parts.run_dir.metrics.read_text()
        parts.state.best_step = 3
        assert _evaluate_test(parts, "test")["checkpoint_step"] == 3


def test_going_on_without_room_for_a_checkpoint_is_refused_with_needed_and_free_bytes(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F11; a new run is refused with the size of its model: tests/launcher/test_plan.py."""
    with small_disk(workplace.folder / "too-full") as disk:
        with training(workplace, "too-full/run", *EVERY_5) as parts:
            loop.save(parts)
            parts.saver.finish()
        needed = sum(file.stat().st_size for file in parts.run_dir.checkpoint(0).iterdir())
        fill(disk)
        monkeypatch.chdir(workplace.folder)
        done = CliRunner().invoke(app, ["launch", "--resume", "too-full/run"])
        assert done.exit_code == 2
        assert f"{needed:,} bytes are needed for the next checkpoint, 0 are free: make room" in done.stderr
