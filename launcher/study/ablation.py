"""`megabatch ablate`: plans every cell before anything runs, then trains them one after the other, and can go on.

The folder of an ablation is its whole state: runs/CELL/seed-N is a run folder like any other. What is finished in it
is kept; what was interrupted goes on from its last checkpoint, as `megabatch launch --resume` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher import launch
from megabatch.launcher.plan import Plan
from megabatch.launcher.preflight import disk_space
from megabatch.launcher.prepare import Prepared, inspect_models, prepare
from megabatch.launcher.pruning import require_no_plan
from megabatch.launcher.study.matrix import Cell
from megabatch.launcher.study.process import require_local
from megabatch.launcher.study.runs import require_same
from megabatch.launcher.tracking import as_one_of


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
    own = job.model_copy(update={"recipe": job.recipe.model_copy(update={"seed": seed})})
    own = as_one_of(own, root.name, "ablation", f"{cell.folder}/seed-{seed}", [cell.label])
    return Run(cell, seed, own, RunDir(root / "runs" / cell.folder / f"seed-{seed}"))


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
        require_same(run.job, run.run_dir, f"cell {run.cell.label}", ablation.folder)
