"""F15: checkpoints deleted, damaged, copied in, or something else in their place.

An older one is used, or the run is refused in words. It never starts anew in silence.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from megabatch.configs.run_dir import RunDir
from megabatch.trainer import checkpoint, loop
from megabatch.trainer.errors import TrainingError
from support.runs import Workplace, losses
from support.training import training

SAVED = ("epochs=3", "checkpoint.every_steps=2", "checkpoint.every_epochs=3", "checkpoint.keep_last=3")  # of 9 steps
LAST = 9


@pytest.fixture
def run_dir(workplace: Workplace, tmp_path: Path) -> RunDir:
    """A run with checkpoints of steps 6, 8 and 9, copied from one that is trained once."""
    original = RunDir(workplace.folder / "has-checkpoints")
    if not original.root.exists():
        with training(workplace, original.root.name, *SAVED) as parts:
            loop.train(parts)
    assert checkpoint.steps_saved(original) == [6, 8, LAST]
    shutil.copytree(original.root, tmp_path / "run")
    return RunDir(tmp_path / "run")


def went_on_from(workplace: Workplace, run_dir: RunDir) -> int:
    """Resume and train to the end; return the step that the run went on from."""
    with training(workplace, str(run_dir.root)) as parts:
        step = parts.state.step
        loop.train(parts)
    assert losses(run_dir) == losses(RunDir(workplace.folder / "has-checkpoints"))
    return step


def file_in_its_place(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no folder")


def nothing_in_it(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def dangling(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.parent / "gone")


@pytest.mark.parametrize("harm", [shutil.rmtree, file_in_its_place, nothing_in_it, dangling])
def test_without_the_newest_the_run_goes_on_from_the_one_before_and_writes_the_newest_again(
    workplace: Workplace, run_dir: RunDir, harm: Callable[[Path], None]
) -> None:
    harm(run_dir.checkpoint(LAST))
    assert went_on_from(workplace, run_dir) == 8
    assert checkpoint.damage(run_dir.checkpoint(LAST)) is None


def test_what_others_put_among_the_checkpoints_stays_and_does_no_harm(workplace: Workplace, run_dir: RunDir) -> None:
    others = [".DS_Store", ".nfs0001", "notes.txt", "step-final", "step-00000003.bak", "step-"]
    for name in others:
        (run_dir.checkpoints / name).write_text("not ours")
    (run_dir.checkpoints / ".snapshot").mkdir()
    (run_dir.checkpoints / ".step-00000010.saving").write_text("a file where a folder was being written")
    checkpoint.clear_hidden(run_dir)
    assert went_on_from(workplace, run_dir) == LAST
    assert {*others, ".snapshot"} < {file.name for file in run_dir.checkpoints.iterdir()}
    assert not list(run_dir.checkpoints.glob(".step-*"))


@pytest.mark.parametrize("how", ["all-deleted", "folder-deleted", "all-damaged"])
def test_a_run_without_any_of_its_checkpoints_is_refused_and_does_not_start_anew(
    workplace: Workplace, run_dir: RunDir, how: str
) -> None:
    for folder in list(run_dir.checkpoints.iterdir()):
        if how == "all-damaged":
            (folder / "state.json").write_text("{}")
        else:
            shutil.rmtree(folder)
    if how == "folder-deleted":
        run_dir.checkpoints.rmdir()
    there = "3 damaged" if how == "all-damaged" else "none"
    message = (
        rf"no undamaged checkpoint to go on from \({there} there, though that of step {LAST} was written\)\. "
        "Put one back, or begin again in a new run folder"
    )
    with pytest.raises(TrainingError, match=message), training(workplace, str(run_dir.root)):
        pass


def test_damaged_checkpoints_alone_are_refused_even_where_the_log_is_gone(
    workplace: Workplace, run_dir: RunDir
) -> None:
    run_dir.metrics.unlink()
    for folder in run_dir.checkpoints.iterdir():
        (folder / "model.safetensors").unlink()
    with pytest.raises(TrainingError, match="3 damaged there"), training(workplace, str(run_dir.root)):
        pass


def test_a_run_killed_before_its_first_checkpoint_begins_at_its_first_step(workplace: Workplace) -> None:
    with training(workplace, "killed-early", *SAVED):
        pass
    with training(workplace, "killed-early") as parts:
        assert parts.state.step == 0


def test_a_newer_checkpoint_of_a_foreign_run_is_refused_with_what_differs(
    workplace: Workplace, run_dir: RunDir
) -> None:
    with training(workplace, "foreign", "epochs=4", "checkpoint.every_epochs=4", "seed=7") as parts:
        loop.train(parts)
        shutil.copytree(parts.run_dir.checkpoint(12), run_dir.checkpoint(12))
    with pytest.raises(TrainingError) as caught, training(workplace, str(run_dir.root)):
        pass
    assert "step-00000012 was written by another recipe or with other data" in str(caught.value)
    assert "names now: seed: 7, now 0; epochs: 4, now 3." in str(caught.value)
