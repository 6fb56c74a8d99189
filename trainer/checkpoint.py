"""Checkpoints: one folder each, invisible until complete, verified before use. safetensors and JSON, never pickle.

A checkpoint is written to a hidden folder, fsynced, listed with sizes and SHA-256 in manifest.json, and renamed into
place. Only a folder whose manifest fits is ever loaded or counted as kept. Knows files; engines hand it tensors, and
saver.py calls it from the background.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megabatch.configs.best_checkpoint import best_checkpoint
from megabatch.configs.run_dir import CHECKPOINT_PREFIX, RunDir
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.process import require_lock
from megabatch.trainer.saving_ranks import Alone, SavingRanks
from megabatch.trainer.sharding import Offsets, Tensors, parts_to_write
from megabatch.trainer.tensor_files import Described, describe_file, read_tensors, tensor_pieces, write_file

# Tensors are in NAME.safetensors, or in NAME/rank-00000.safetensors and so on where each rank wrote its own.
_NETWORK, _OPTIMIZER = "model", "optimizer"
_AVERAGED, _MASKS = "averaged", "masks"  # only where weights are averaged, or pruned
_STATE, MANIFEST = "state.json", "manifest.json"
_WHOLE: Tensors = {}

DamageOf = Callable[[Path], str | None]


@dataclass(frozen=True)
class Snapshot:
    """All that a training needs to go on: tensors by name, and small state as plain values."""

    network: Tensors
    optimizer: Tensors
    state: dict[str, Any]
    averaged: Tensors = field(default_factory=dict)
    masks: Tensors = field(default_factory=dict)
    offsets: dict[str, Offsets] | None = None  # where the parts begin, by file, if this is the share of one rank

    def share(self, is_main: bool) -> Snapshot:
        """Return what this rank writes, where the tensors are shared out."""
        parts: dict[str, Tensors] = {}
        offsets: dict[str, Offsets] = {}
        for group, tensors in self.groups().items():
            parts[group], offsets[group] = parts_to_write(tensors, is_main)
        return Snapshot(parts[_NETWORK], parts[_OPTIMIZER], self.state, parts[_AVERAGED], parts[_MASKS], offsets)

    def groups(self) -> dict[str, Tensors]:
        """Return the tensors by the name of their file."""
        return {_NETWORK: self.network, _OPTIMIZER: self.optimizer, _AVERAGED: self.averaged, _MASKS: self.masks}


def damage(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint folder, or None if every file is as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, expected in manifest.items():
            if describe_file(folder / name) != expected:
                return f"{name} is not as it was written (size or SHA-256 differ)"
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        return f"incomplete: {error}"
    return None if _STATE in manifest else "incomplete: the manifest lists no state"


class Verified:
    """Remembers which checkpoints this process has found or written whole, so that it hashes each of them once.

    A file that was touched since has another size or time of change, and is hashed again.
    """

    def __init__(self) -> None:
        self._known: dict[Path, list[tuple[str, int, int]]] = {}

    def damage(self, folder: Path) -> str | None:
        """Return what `damage` does."""
        files = _files_as_they_are(folder)
        if self._known.get(folder) == files:
            return None
        problem = damage(folder)
        if problem is None:
            self._known[folder] = files
        return problem

    def add(self, folder: Path) -> None:
        """Take note of a checkpoint that was hashed while it was written."""
        self._known[folder] = _files_as_they_are(folder)


def save(
    run_dir: RunDir,
    step: int,
    snapshot: Snapshot,
    verified: Verified | None = None,
    ranks: SavingRanks = Alone(),  # noqa: B008  # it has no state
) -> Path:
    """Write the checkpoint of `step` and return its folder. Nothing appears under that name before it is complete.

    Where several `ranks` write together, each has its share in `snapshot` and all of them call this. Raises OSError if
    it cannot be written: then nothing of it is left, and all other checkpoints are as they were.
    """
    target, verified = run_dir.checkpoint(step), verified or Verified()
    hidden = run_dir.checkpoints / f".{target.name}.saving"
    if ranks.all_do(lambda: _begin(hidden, target, verified) if ranks.is_main else {}):
        return target
    try:
        manifest = ranks.all_do(lambda: _write_files(hidden, snapshot, ranks))
        ranks.all_do(lambda: _commit(hidden, target, manifest) if ranks.is_main else {})
    finally:
        if ranks.is_main:
            shutil.rmtree(hidden, ignore_errors=True)
    if ranks.is_main:
        verified.add(target)
    return target


def load(folder: Path, damage_of: DamageOf = damage, like: Tensors = _WHOLE) -> Snapshot:
    """Read a checkpoint. Raises TrainingError if it is not complete and unchanged.

    What `like` has shared out among ranks, by the name of the parameter, is read and shared out like that.
    """
    problem = damage_of(folder)
    if problem:
        raise TrainingError(f"{folder}: {problem}. Use another checkpoint of the run")
    network, averaged, masks = (
        read_tensors(_tensor_files(folder, group), like.get) for group in (_NETWORK, _AVERAGED, _MASKS)
    )
    optimizer = read_tensors(_tensor_files(folder, _OPTIMIZER), lambda path: like.get(path.rpartition("/")[0]))
    return Snapshot(network, optimizer, read_state(folder), averaged, masks)


def read_state(folder: Path) -> dict[str, Any]:
    """Read what of a checkpoint is no tensor, unchecked."""
    state: dict[str, Any] = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    return state


def load_network(folder: Path, averaged: bool = True, like: Tensors = _WHOLE) -> Tensors:
    """Read only the network's tensors: their average where there is one and `averaged` is wished.

    Raises TrainingError if the checkpoint is damaged.
    """
    problem = damage(folder)
    if problem:
        raise TrainingError(f"{folder}: {problem}. Use another checkpoint of the run")
    files = (averaged and _tensor_files(folder, _AVERAGED)) or _tensor_files(folder, _NETWORK)
    return read_tensors(files, like.get)


def newest(run_dir: RunDir, at_most: int | None = None, damage_of: DamageOf = damage) -> tuple[Path | None, list[str]]:
    """Return the newest undamaged checkpoint, of step `at_most` or before, and a message for each damaged newer one."""
    messages: list[str] = []
    for folder in sorted(_folders(run_dir), key=step_of, reverse=True):
        if at_most is not None and step_of(folder) > at_most:
            continue
        problem = damage_of(folder)
        if problem is None:
            return folder, messages
        messages.append(f"{folder} is damaged ({problem}): falling back to an older checkpoint")
    return None, messages


def chosen(run_dir: RunDir, which: str) -> Path:
    """Return the folder of the checkpoint `best`, `last` or of a step. Raises TrainingError if there is none."""
    last, _ = newest(run_dir)
    if last is None:
        raise TrainingError(f"{run_dir.checkpoints} has no undamaged checkpoint: train first (megabatch launch)")
    if which == "last":
        return last
    if which == "best":
        return best_checkpoint(run_dir, last)
    if which.isdigit() and run_dir.checkpoint(int(which)).is_dir():
        return run_dir.checkpoint(int(which))
    kept = ", ".join(sorted(folder.name for folder in run_dir.checkpoints.glob(f"{CHECKPOINT_PREFIX}*")))
    raise TrainingError(f"{run_dir.root} has no checkpoint {which!r}: write best, last, or the step of one of {kept}")


def prune(run_dir: RunDir, keep_last: int, keep: Collection[int], damage_of: DamageOf = damage) -> None:
    """Delete what is older than the newest `keep_last` undamaged checkpoints, except those of the steps `keep`."""
    good = 0
    for folder in sorted(_folders(run_dir), key=step_of, reverse=True):
        if good < keep_last:
            good += damage_of(folder) is None
        elif step_of(folder) not in keep:
            _delete(folder)


def delete_after(run_dir: RunDir, step: int) -> None:
    """Delete the checkpoints of later steps."""
    for folder in _folders(run_dir):
        if step_of(folder) > step:
            _delete(folder)


def steps_saved(run_dir: RunDir) -> list[int]:
    """Return the steps that have a checkpoint, damaged or not, in rising order."""
    return sorted(step_of(folder) for folder in _folders(run_dir))


def step_of(folder: Path) -> int:
    """Return the step that a checkpoint folder is named after; -1 for any other folder."""
    digits = folder.name.removeprefix(CHECKPOINT_PREFIX)
    return int(digits) if digits.isdigit() else -1


def clear_hidden(run_dir: RunDir) -> None:
    """Remove what an interrupted save left behind, and nothing that others have hidden there."""
    for found in run_dir.checkpoints.glob(f".{CHECKPOINT_PREFIX}*"):
        _remove(found)


def _folders(run_dir: RunDir) -> list[Path]:
    return [f for f in run_dir.checkpoints.glob(f"{CHECKPOINT_PREFIX}*") if step_of(f) >= 0]


def _begin(hidden: Path, target: Path, verified: Verified) -> dict[str, Any]:
    """Make the hidden folder; or return that there is nothing to do."""
    require_lock()
    if target.exists() and not verified.damage(target):
        return {"saved": True}
    if not hidden.parent.exists():
        hidden.parent.mkdir(parents=True)
        _sync(hidden.parent.parent)
    if hidden.exists() or hidden.is_symlink():
        _remove(hidden)
    hidden.mkdir()
    return {}


def _write_files(hidden: Path, snapshot: Snapshot, ranks: SavingRanks) -> dict[str, Described]:
    """Write this rank's files and return the manifest's entry for each of them."""
    manifest = {}
    for group, tensors in snapshot.groups().items():
        if group in (_AVERAGED, _MASKS) and not tensors:
            continue
        name = f"{group}/rank-{ranks.rank:05d}.safetensors" if ranks.shared else f"{group}.safetensors"
        (hidden / name).parent.mkdir(exist_ok=True)
        offsets = snapshot.offsets[group] if snapshot.offsets is not None else None
        manifest[name] = write_file(hidden / name, tensor_pieces(tensors, offsets))
        _sync((hidden / name).parent)
    if ranks.is_main:
        manifest[_STATE] = write_file(hidden / _STATE, [_json(snapshot.state)])
    return manifest


def _commit(hidden: Path, target: Path, manifest: dict[str, Described]) -> dict[str, Any]:
    write_file(hidden / MANIFEST, [_json(manifest)])
    _sync(hidden)
    require_lock()
    if target.exists() or target.is_symlink():  # a damaged one of the same step, found before
        _delete(target)
    hidden.rename(target)
    _sync(target.parent)
    return {}


def _tensor_files(folder: Path, group: str) -> list[Path]:
    whole = folder / f"{group}.safetensors"
    return [whole] if whole.exists() else sorted((folder / group).glob("rank-*.safetensors"))


def _files_as_they_are(folder: Path) -> list[tuple[str, int, int]]:
    """Return name, size and time of change of every file, without reading any."""
    found = [(file, file.stat()) for file in sorted(folder.rglob("*"))]
    return [(str(file), status.st_size, status.st_mtime_ns) for file, status in found]


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, indent=1).encode()


def _delete(folder: Path) -> None:
    """Delete a checkpoint. A kill in the middle leaves nothing half deleted under its name."""
    _remove(folder.rename(folder.with_name(f".{folder.name}.deleted.{os.getpid()}")))


def _remove(path: Path) -> None:
    """Remove a folder, or what somebody put where a folder should be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
