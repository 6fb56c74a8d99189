"""I5 with the power gone: whatever of the unsynced reached the disk, the last acknowledged checkpoint is there."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import pytest
import torch

from megabatch.configs.run_dir import RunDir
from megabatch.trainer import checkpoint
from support.power_loss import Recording, recorded
from support.saving_child import BEFORE, SAVED, snapshot

STATES = 200


def saved_and_recorded(folder: Path, patch: pytest.MonkeyPatch) -> tuple[Recording, dict[int, int]]:
    """Save and prune as a run does; return also after how many calls each step was acknowledged."""
    run_dir = RunDir(folder)
    for step in BEFORE:
        checkpoint.save(run_dir, step, snapshot(step))
    acknowledged = {}
    with recorded(run_dir.checkpoints, patch) as recording:
        for step in SAVED:
            checkpoint.save(run_dir, step, snapshot(step))
            acknowledged[step] = len(recording.trees) - 1
            checkpoint.prune(run_dir, 2, set())
    return recording, acknowledged


def lost_states(folder: Path, recording: Recording, acknowledged: dict[int, int]) -> int:
    """Return in how many of the states after a crash an acknowledged checkpoint was missing or another was torn."""
    random, lost = Random(0), 0
    for _ in range(STATES):
        at = random.randrange(len(recording.trees))
        after = RunDir(folder / "after")
        after.root.mkdir()
        recording.crash(at, random, after.checkpoints)
        found, _ = checkpoint.newest(after)
        due = max([BEFORE[-1], *(step for step, call in acknowledged.items() if call <= at)])
        if found is None or checkpoint.step_of(found) < due:
            lost += 1
        else:
            step = checkpoint.step_of(found)
            assert torch.equal(checkpoint.load(found).network["w"], snapshot(step).network["w"])
        shutil.rmtree(after.root)
    return lost


def test_after_a_loss_of_power_the_last_acknowledged_checkpoint_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording, acknowledged = saved_and_recorded(tmp_path / "run", monkeypatch)
    assert len(recording.trees) > 20
    assert lost_states(tmp_path, recording, acknowledged) == 0


@pytest.mark.parametrize("unsynced", ["files", "folders"])
def test_the_model_of_the_disk_finds_what_is_not_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unsynced: str
) -> None:
    """The same without the syncing of files or of folders: it must lose something, or the test above says nothing."""
    if unsynced == "folders":
        monkeypatch.setattr(checkpoint, "_sync", lambda folder: None)
    else:
        monkeypatch.setattr("megabatch.trainer.tensor_files.os", OnlyFolders())
    recording, acknowledged = saved_and_recorded(tmp_path / "run", monkeypatch)
    assert lost_states(tmp_path, recording, acknowledged) > 0


class OnlyFolders:
    """The module os without fsync, as tensor_files.py sees it."""

    def fsync(self, descriptor: int) -> None:
        """Do nothing."""
