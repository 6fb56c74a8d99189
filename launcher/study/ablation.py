"""`megabatch ablate`: plans every cell before anything runs, then trains them one after the other, and can go on.

The folder of an ablation is its whole state: runs/CELL/seed-N is a run folder like any other. What is finished in it
is kept; what was interrupted goes on from its last checkpoint, as `megabatch launch --resume` does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.load import read_job
from megabatch.configs.run_dir import RunDir
from megabatch.configs.run_lock import RunFolderError, RunFolderInUseError, require_free, take
from megabatch.launcher import launch
from megabatch.launcher.plan import Plan
from megabatch.launcher.preflight import disk_space
from megabatch.launcher.prepare import Prepared, inspect_models, prepare
from megabatch.launcher.pruning import require_no_plan
from megabatch.launcher.study.matrix import Cell
from megabatch.launcher.study.process import require_local
from megabatch.launcher.supervise import Ending, ExitCode

_SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(frozen=True)
class Run:
    """One training: a cell with a seed, its job and its folder."""

    cell: Cell
    seed: int
    job: Job
    run_dir: RunDir


@dataclass(frozen=True)
class Ablation:
    """All runs, seed by seed, so that an early look at the results compares whole matrices."""

    folder: Path
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    same_as_base: tuple[Cell, ...]
    base: Job
    plans: dict[Cell, Plan]
    runs: tuple[Run, ...]

    @property
    def samples(self) -> int:
        """Return the samples of all runs together."""
        return sum(self.plans[cell].samples_in_all for cell in self.cells) * len(self.seeds)


def plan_ablation(
    recipe: str, cluster: str, overrides: Sequence[str], cells: Sequence[Cell], num_seeds: int, folder: Path | None
) -> Ablation:
    """Check every cell and return what will be run. Raises ConfigError with the problems of all cells."""
    prepared = _prepare_all(recipe, cluster, overrides, cells)
    base = prepared[cells[0]].job
    require_local(base, "ablate", also=("slurm",))
    _require_splits(base)
    same = tuple(cell for cell in cells[1:] if _content(prepared[cell].job) == _content(base))
    different = _without_repeats([cell for cell in cells if cell not in same], prepared)
    seeds = tuple(range(base.recipe.seed, base.recipe.seed + num_seeds))
    root = (folder or Path("ablations") / base.recipe.name).absolute()
    runs = tuple(_run(root, cell, seed, prepared[cell].job) for seed in seeds for cell in different)
    plans = {cell: prepared[cell].plan for cell in different}
    return Ablation(root, tuple(different), seeds, same, base, plans, runs)


def _prepare_all(recipe: str, cluster: str, overrides: Sequence[str], cells: Sequence[Cell]) -> dict[Cell, Prepared]:
    prepared, problems = {}, []
    for cell in cells:
        try:
            prepared[cell] = prepare(recipe, cluster, [*overrides, *cell.overrides])
            require_no_plan(prepared[cell].job, "ablate")
        except ConfigError as error:
            if cell == cells[0]:
                raise  # every other cell would tell the same
            problems += [Problem(f"cell {cell.label}", str(problem)) for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    return prepared


def _require_splits(job: Job) -> None:
    if job.recipe.data.validation_split is None and job.recipe.data.test_split is None:
        problem = "there is nothing to compare by: name data.validation_split or data.test_split"
        raise ConfigError([Problem("", problem)])


def _content(job: Job) -> dict[str, Any]:
    return job.recipe.model_dump(mode="json", exclude={"name"})


def _without_repeats(cells: list[Cell], prepared: dict[Cell, Prepared]) -> list[Cell]:
    """Keep the first of cells that come to the same recipe."""
    kept: list[Cell] = []
    for cell in cells:
        if all(_content(prepared[cell].job) != _content(prepared[other].job) for other in kept):
            kept.append(cell)
    return kept


def _run(root: Path, cell: Cell, seed: int, job: Job) -> Run:
    recipe = job.recipe.model_copy(update={"seed": seed})
    return Run(
        cell, seed, job.model_copy(update={"recipe": recipe}), RunDir(root / "runs" / cell.folder / f"seed-{seed}")
    )


def inspect_cells(ablation: Ablation) -> None:
    """Build every network that is still to be trained, and look for room. Raises ConfigError naming the cell."""
    open_runs = [run for run in ablation.runs if not launch.is_finished(run.run_dir)]
    jobs = {run.cell: run.job for run in reversed(open_runs)}
    found = dict(zip(jobs, inspect_models(list(jobs.values())), strict=True))
    problems = [Problem(f"cell {cell.label}", text) for cell, facts in found.items() for text in facts["problems"]]
    if problems:
        raise ConfigError(problems)
    if open_runs:
        kept = sum(run.job.recipe.kept_checkpoints for run in open_runs)
        full = disk_space(ablation.folder, max(facts["checkpoint_bytes"] for facts in found.values()), kept)
        if full:
            raise ConfigError(Problem("", message) for message in full)


def require_unchanged(ablation: Ablation) -> None:
    """Raise ConfigError if a run in the folder was begun with another recipe or other data than it has now."""
    for run in ablation.runs:
        if not run.run_dir.job.is_file():
            continue
        before = read_job(run.run_dir.job)
        if before.fingerprint() != run.job.fingerprint():
            seen = f"cell {run.cell.label} was begun with {_changed(before, run.job)}"
            remedy = "Runs of two recipes cannot be compared: put it back, or choose another --folder"
            raise ConfigError([Problem(str(ablation.folder), f"{seen}. {remedy}")])


def _changed(before: Job, now: Job) -> str:
    """Return which keys differ, in words."""
    old, new = _leaves(before.recipe.model_dump(mode="json")), _leaves(now.recipe.model_dump(mode="json"))
    keys = [
        key for key in {**old, **new} if old.get(key) != new.get(key) and key.split(".")[0] not in ("name", "tracking")
    ]
    told = [f"{key} {old.get(key)}, which is {new.get(key)} now" for key in keys]
    return "; ".join(told) or "other data"


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {
            k: v for key, child in value.items() for k, v in _leaves(child, f"{path}.{key}" if path else key).items()
        }
    return {path: value}


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Take the folder of the ablation for this process. Raises ConfigError if another one has it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = take(folder / "ablation.lock")
    except RunFolderError as error:
        raise ConfigError([Problem("", str(error))]) from None
    try:
        yield
    finally:
        lock.close()


def train(run: Run) -> Ending:
    """Begin the run, or go on with it from its last checkpoint; return how it ended."""
    _wait_until_free(run.run_dir)
    if launch.is_finished(run.run_dir):
        return Ending(ExitCode.DONE, "")
    run.run_dir.root.mkdir(parents=True, exist_ok=True)
    ending = launch.start(run.job, run.run_dir, typer.echo)
    if ending.code == ExitCode.DONE and not launch.is_finished(run.run_dir):
        return Ending(ExitCode.STOPPED, "")
    return ending


def _wait_until_free(run_dir: RunDir) -> None:
    """Ranks outlive a launcher that was killed outright: let them finish their run."""
    told = False
    while True:
        try:
            require_free(run_dir.lock)
            return
        except RunFolderInUseError as error:
            if not told:
                typer.echo(
                    f"{error.args[0].partition(':')[0]} still, left over from a killed command: waiting for its end"
                )
            told = True
            time.sleep(_SECONDS_BETWEEN_LOOKS)
