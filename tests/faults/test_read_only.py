"""The run folder can no longer be written: before a start that is a message, in the middle the rule of a full disk."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from megabatch.configs.metrics import read_metrics
from megabatch.trainer import checkpoint, loop
from megabatch.trainer.errors import TrainingError
from support.disks import small_disk
from support.runs import Workplace, losses, trained_samples
from support.training import at_steps, training

EVERY_5 = ("epochs=10", "checkpoint.every_epochs=10", "checkpoint.every_steps=5")


def remount(disk: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], check=True)


@pytest.fixture
def disk(workplace: Workplace) -> Iterator[Path]:
    folder = workplace.folder / "some-disk"
    with small_disk(folder) as mounted:
        yield mounted
        remount(mounted, "rw")
    folder.rmdir()


def test_training_goes_on_while_the_disk_is_read_only_and_loses_neither_checkpoints_nor_lines(
    workplace: Workplace, disk: Path
) -> None:
    with training(workplace, "some-disk/run", *EVERY_5) as parts:
        run_dir = parts.run_dir
        # a file that is open for writing would forbid the remount; its lines go on into a new one
        at_steps(parts, {6: lambda: (close_logs(parts), remount(disk, "ro")), 17: lambda: remount(disk, "rw")})
        assert loop.train(parts) == "finished"
    saves = [(line["step"], "error" in line) for line in read_metrics(run_dir.metrics, "checkpoint")]
    assert saves == [(5, False), (10, True), (15, True), (20, False), (25, False), (30, False)]
    assert "Read-only file system" in run_dir.metrics.read_text()
    assert "failure 2 in a row, number 3 ends it" in run_dir.metrics.read_text()
    assert not list(run_dir.checkpoints.glob(".*"))
    with training(workplace, "writable", *EVERY_5) as parts:
        loop.train(parts)
        assert losses(run_dir) == losses(parts.run_dir)
        assert trained_samples(run_dir) == trained_samples(parts.run_dir)


def close_logs(parts: object) -> None:
    """Let go of the files that are kept open."""
    parts.trackers.members[0]._lines._release()  # type: ignore[attr-defined]
    parts.sample_log._lines._release()  # type: ignore[attr-defined]


def test_a_disk_that_stays_read_only_ends_the_run_after_three_checkpoints_and_leaves_the_older_ones(
    workplace: Workplace, disk: Path
) -> None:
    with training(workplace, "some-disk/run", *EVERY_5) as parts:
        at_steps(parts, {6: lambda: (close_logs(parts), remount(disk, "ro"))})
        with pytest.raises(
            TrainingError, match=r"This was failure 3 in a row, checkpoint\.max_failures allows no more"
        ):
            loop.train(parts)
        assert parts.state.step < 25
        assert checkpoint.newest(parts.run_dir) == (parts.run_dir.checkpoint(5), [])


def test_samples_that_cannot_be_used_are_counted_while_their_file_cannot_be_written(tmp_path: Path) -> None:
    import torch

    from megabatch.configs.data import SkipErrors
    from megabatch.data.errors import SkippedSample
    from megabatch.trainer.ledger import Ledger, read_ledger
    from megabatch.trainer.world import World

    file = tmp_path / "folder" / "data-errors.jsonl"
    file.parent.write_text("in the way")
    ledger = Ledger(file, SkipErrors(max_samples=2), World(0, 1, 0, torch.device("cpu")))
    ledger.add([SkippedSample("image", "a.tar", "key", 3, "broken")], "train")
    assert ledger.summary() == "image: 1"
    file.parent.unlink()
    ledger.add([SkippedSample("image", "a.tar", "other", 4, "broken")], "train")
    assert [line["sample_id"] for line in read_ledger(file)] == [3, 4]


@pytest.mark.processes
def test_a_start_on_a_read_only_disk_is_a_message_with_exit_code_2_and_no_traceback(
    workplace: Workplace, disk: Path
) -> None:
    old = workplace.job("some-disk/old", 1)
    remount(disk, "ro")
    new = workplace.megabatch("launch", "recipe.yaml", "--dry-run", "--write", "some-disk/new")
    resumed = workplace.megabatch("launch", "--resume", "some-disk/old")
    by_hand = workplace.start_alone(old, stderr=subprocess.PIPE)
    _, said = by_hand.communicate(timeout=300)
    assert (new.returncode, resumed.returncode, by_hand.returncode) == (2, 2, 2)
    for text, folder in ((new.stderr, "some-disk/new"), (resumed.stderr, "some-disk/old"), (said, "old/run.lock")):
        assert folder in text
        assert "Read-only file system" in text
        assert "Traceback" not in text
