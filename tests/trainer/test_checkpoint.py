"""Checkpoints: invisible until complete, verified before use, and never the last good one deleted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megabatch.configs.run_dir import RunDir
from megabatch.trainer import checkpoint
from megabatch.trainer.checkpoint import Snapshot
from megabatch.trainer.errors import TrainingError

FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


def snapshot(value: float = 1.0) -> Snapshot:
    tensors = {"layer.weight": torch.full((3, 2), value), "counter": torch.tensor(7)}
    return Snapshot(tensors, {"layer.weight/momentum_buffer": torch.ones(3, 2)}, {"training": {"step": 5}})


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def test_what_is_saved_is_what_is_loaded(run_dir: RunDir) -> None:
    folder = checkpoint.save(run_dir, 5, snapshot(0.1))
    loaded = checkpoint.load(folder)
    assert torch.equal(loaded.network["layer.weight"], torch.full((3, 2), 0.1))
    assert loaded.network["counter"].item() == 7
    assert loaded.state == {"training": {"step": 5}}
    assert sorted(file.name for file in folder.iterdir()) == sorted(FILES)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("harm", ["flip", "cut", "delete", "empty"])
def test_damage_to_any_file_is_seen_and_the_older_checkpoint_used(run_dir: RunDir, file: str, harm: str) -> None:
    older = checkpoint.save(run_dir, 5, snapshot(1.0))
    newer = checkpoint.save(run_dir, 6, snapshot(2.0))
    content = (newer / file).read_bytes()
    if harm == "flip":
        middle = len(content) // 2
        (newer / file).write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif harm == "delete":
        (newer / file).unlink()
    else:
        (newer / file).write_bytes(content[:-1] if harm == "cut" else b"")
    found, messages = checkpoint.newest(run_dir)
    assert found == older
    assert len(messages) == 1
    assert str(newer) in messages[0]
    with pytest.raises(TrainingError, match="Use another checkpoint"):
        checkpoint.load(newer)


def test_an_interrupted_save_leaves_nothing_that_is_taken_for_a_checkpoint(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = checkpoint.save(run_dir, 5, snapshot())

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_sync", no_space)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(run_dir, 6, snapshot())
    assert checkpoint.newest(run_dir) == (good, [])
    assert list(run_dir.checkpoints.iterdir()) == [good]


def test_a_killed_save_is_cleared_away_at_the_next_start(run_dir: RunDir) -> None:
    good = checkpoint.save(run_dir, 5, snapshot())
    (run_dir.checkpoints / ".step-00000006.123").mkdir()
    checkpoint.clear_hidden(run_dir)
    assert list(run_dir.checkpoints.iterdir()) == [good]


def test_the_newest_two_and_the_best_are_kept(run_dir: RunDir) -> None:
    for step in range(1, 7):
        checkpoint.save(run_dir, step, snapshot())
        checkpoint.prune(run_dir, keep_last=2, keep={2})
    assert sorted(f.name for f in run_dir.checkpoints.iterdir()) == ["step-00000002", "step-00000005", "step-00000006"]


def test_a_damaged_checkpoint_does_not_count_as_kept(run_dir: RunDir) -> None:
    for step in (1, 2, 3):
        checkpoint.save(run_dir, step, snapshot())
    (run_dir.checkpoint(3) / "model.safetensors").write_bytes(b"")
    checkpoint.prune(run_dir, keep_last=2, keep=())
    assert checkpoint.damage(run_dir.checkpoint(1)) is None
    assert checkpoint.damage(run_dir.checkpoint(2)) is None


def test_saving_a_step_again_replaces_a_damaged_checkpoint_and_keeps_a_good_one(run_dir: RunDir) -> None:
    folder = checkpoint.save(run_dir, 5, snapshot(1.0))
    (folder / "state.json").write_text("")
    checkpoint.save(run_dir, 5, snapshot(2.0))
    assert checkpoint.load(folder).network["layer.weight"][0, 0].item() == 2.0
    checkpoint.save(run_dir, 5, snapshot(3.0))
    assert checkpoint.load(folder).network["layer.weight"][0, 0].item() == 2.0
