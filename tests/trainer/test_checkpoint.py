"""Checkpoints: invisible until complete, verified before use, and never the last good one deleted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from megabatch.configs.run_dir import RunDir
from megabatch.configs.run_lock import take
from megabatch.trainer import checkpoint, process
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


def test_five_hundred_harms_are_all_seen_and_none_is_loaded(run_dir: RunDir) -> None:
    """F14: a flipped byte, an end cut off, a stretch of zeros, anywhere in any file of the newest checkpoint."""
    random = Random(0)
    older = checkpoint.save(run_dir, 5, snapshot(1.0))
    newer = checkpoint.save(run_dir, 6, replace(snapshot(2.0), averaged={"average": torch.rand(400)}))
    files = sorted(newer.iterdir())
    assert len(files) == 5
    seen = 0
    while seen < 500:
        file = random.choice(files)
        before = file.read_bytes()
        file.write_bytes(harmed(before, random))
        if file.name != "manifest.json" or not means_the_same(before, file.read_bytes()):
            seen += 1
            found, messages = checkpoint.newest(run_dir)
            assert found == older
            assert len(messages) == 1
            with pytest.raises(TrainingError, match="Use another checkpoint"):
                checkpoint.load(newer)
        file.write_bytes(before)
    assert checkpoint.newest(run_dir) == (newer, [])


def harmed(content: bytes, random: Random) -> bytes:
    place = random.randrange(len(content))
    kind = random.choice(["flip", "cut", "zero"])
    if kind == "flip":
        return content[:place] + bytes([content[place] ^ random.randrange(1, 256)]) + content[place + 1 :]
    if kind == "cut":
        return content[:place]
    end = random.randrange(place + 1, len(content) + 1)
    zeroed = content[:place] + bytes(end - place) + content[end:]
    return zeroed if zeroed != content else b""


def means_the_same(before: bytes, after: bytes) -> bool:
    """Whether only white space of a JSON file has changed."""
    try:
        return bool(json.loads(before) == json.loads(after))
    except ValueError:
        return False


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


@pytest.mark.parametrize("moment", ["before", "while it writes"])
def test_who_has_lost_the_run_folder_writes_no_checkpoint(
    run_dir: RunDir, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system may have handed the lock on: a rename of the file stands for that."""
    own = take(run_dir.lock)
    monkeypatch.setattr(process, "_held", [own])
    checkpoint.save(run_dir, 4, snapshot())

    def next_start() -> None:
        run_dir.lock.rename(run_dir.root / "lost")
        take(run_dir.lock).close()

    if moment == "before":
        next_start()
    else:
        write = checkpoint._write_files
        monkeypatch.setattr(checkpoint, "_write_files", lambda *given: (next_start(), write(*given))[1])
    (run_dir.checkpoints / ".step-00000009.saving").mkdir()  # the other start saves too
    with pytest.raises(TrainingError, match=r"was started again .* and process \d+ on \S+ has it now"):
        checkpoint.save(run_dir, 5, snapshot())
    assert checkpoint.steps_saved(run_dir) == [4]
    assert (run_dir.checkpoints / ".step-00000009.saving").exists()
    own.close()
