"""What `megabatch runs remove` takes away, and why some of it must stay. Computes first; one function deletes.

A run stays while it runs or waits, and while another run begins from it: its weights are named there as pretrained,
as a teacher, as a member of an ensemble or as the source of a pruning.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabatch.configs.best_checkpoint import best_checkpoint
from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.json_files import read_json
from megabatch.configs.run_dir import CHECKPOINT_PREFIX, RunDir
from megabatch.configs.run_lock import RunFolderError, require_free, take
from megabatch.configs.yaml_tree import read_tree
from megabatch.launcher.from_here import from_here
from megabatch.launcher.requeue import newest_step
from megabatch.launcher.run_list import Run, is_run, read_run, run_folders
from megabatch.launcher.status import RUNNING, WAITING
from megabatch.launcher.study.ensemble import RESULT as ENSEMBLE


@dataclass(frozen=True)
class Removal:
    """Folders to delete: the run itself, or some of its checkpoints."""

    run: Run
    folders: tuple[Path, ...]
    bytes: int


def plan_removal(names: Sequence[str], folder: Path, only_checkpoints: bool) -> list[Removal]:
    """Return what is to be deleted. Raises ConfigError with every reason against any of it; deletes nothing."""
    problems: list[Problem] = []
    found = [run for name in dict.fromkeys(names) if (run := _found(name, folder, problems)) is not None]
    problems += [problem for run in found for problem in _in_use(run)]
    removals = [_removal(run, _checkpoints_to_drop(run) if only_checkpoints else [run.run_dir.root]) for run in found]
    gone = [path for removal in removals for path in removal.folders]
    problems += list(_needed_by_others(gone, folder, {run.run_dir.root.resolve() for run in found}, only_checkpoints))
    if problems:
        raise ConfigError(problems)
    return [removal for removal in removals if removal.folders]


def remove(removal: Removal) -> None:
    """Delete it, with the run folder locked against a start. Raises OSError, RunFolderError."""
    lock = take(removal.run.run_dir.lock)
    try:
        for folder in removal.folders:
            shutil.rmtree(folder)
    finally:
        lock.close()


def _found(name: str, folder: Path, problems: list[Problem]) -> Run | None:
    for path in (Path(name), folder / name):
        if path.is_symlink():
            problems.append(Problem(name, "is a link: remove the link itself, or name the folder that it leads to"))
            return None
        if path.is_dir() and is_run(RunDir(path)):
            return read_run(RunDir(path.absolute()))
    problems.append(Problem(name, f"is no run folder. `megabatch runs --folder {folder}` lists those there are"))
    return None


def _in_use(run: Run) -> Iterator[Problem]:
    shown = from_here(run.run_dir.root)
    if run.state in (RUNNING, WAITING):
        yield Problem(shown, f"is {run.state}: `megabatch cancel {shown}` ends it, and saves first")
        return
    try:
        require_free(run.run_dir.lock)
    except RunFolderError as error:
        yield Problem("", str(error))


def _checkpoints_to_drop(run: Run) -> list[Path]:
    """Return all checkpoints but the best; of a run that can go on, the newest stays too."""
    newest = run.run_dir.checkpoint(newest_step(run.run_dir))
    kept = {newest} if run.state != "finished" else set()
    try:
        kept.add(best_checkpoint(run.run_dir, newest))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):  # a damaged one: nothing says which is best
        return []
    there = [path for path in sorted(run.run_dir.checkpoints.glob(f"{CHECKPOINT_PREFIX}*")) if path.is_dir()]
    return [path for path in there if path not in kept] if kept <= set(there) else []


def _removal(run: Run, folders: Sequence[Path]) -> Removal:
    return Removal(run, tuple(folders), sum(map(bytes_below, folders)))


def bytes_below(folder: Path) -> int:
    """Return how many bytes the files in a folder have; what cannot be read is not counted, links are not followed."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += (Path(path) / name).lstat().st_size
    return total


def _needed_by_others(
    gone: Sequence[Path], folder: Path, leaving: set[Path], only_checkpoints: bool
) -> Iterator[Problem]:
    """Look into the runs below the folder, and beside those that are to go, for paths that lead to what is to go."""
    inside = [path.resolve() for path in gone]
    parents = {folder.resolve(), *(path.parent for path in inside if not only_checkpoints)}
    others = {run.root.resolve() for parent in parents if parent.is_dir() for run in run_folders(parent)}
    for other in sorted(others - (set() if only_checkpoints else leaving)):
        for path in _paths_in(RunDir(other), [target.name for target in inside]):
            needed = next((target for target in inside if path == target or target in path.parents), None)
            if needed is not None and other != needed and other not in needed.parents:
                yield Problem(from_here(needed), f"{from_here(other)} begins from it. Remove that run first, or both")


def _paths_in(run_dir: RunDir, names: Sequence[str]) -> Iterator[Path]:
    """Yield what a run may mean as paths, where its text has one of the names in it at all: parsing takes 20 ms."""
    for part in (run_dir, *run_dir.stages()):
        try:
            text = part.job.read_text(encoding="utf-8") + _text_of(part.root / ENSEMBLE)
            if not any(name in text for name in names):
                continue
            job = read_tree(part.job, str(part.job)).values
        except (OSError, ValueError):  # a damaged one begins from nothing any more
            continue
        start = Path(str(job.get("working_folder", ".")))
        for text in _texts([job.get("recipe"), read_json(part.root / ENSEMBLE)]):
            if "/" in text or text in names:
                yield (start / text).resolve()


def _text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""


def _texts(values: Any) -> Iterable[str]:  # Any: of YAML
    if isinstance(values, str):
        return [values]
    below = values.values() if isinstance(values, dict) else values if isinstance(values, list) else ()
    return [text for value in below for text in _texts(value)]
