"""The recipe of each stage of continual learning: the run of its own that it is. Values; starts and writes nothing.

A stage sees the data sets of all stages so far as its sources, in their order: those before are evaluated on, and
trained on as far as the replay buffer goes. Its network is that of the stage before, with a head for more classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from megabatch.configs.continual import Continual
from megabatch.configs.errors import ConfigError, Problem, nearest
from megabatch.configs.job import Job
from megabatch.configs.layers import apply_override
from megabatch.configs.load import load, validate
from megabatch.configs.recipe import Recipe
from megabatch.configs.run_dir import RunDir
from megabatch.configs.yaml_tree import Tree
from megabatch.data.arrangement import arrange
from megabatch.data.dataset import Dataset
from megabatch.data.errors import DataError
from megabatch.data.mixture import whole_weights
from megabatch.data.sources.open import open_dataset
from megabatch.launcher.prepare import Prepared, check, job_of
from megabatch.launcher.progress import progress_on_stderr
from megabatch.launcher.refusals import refusals
from megabatch.launcher.refusals.continual import CONTINUAL
from megabatch.launcher.tracking import require_own_ids


@dataclass(frozen=True)
class StageData:
    """What a stage brings: these classes of this data set."""

    path: str
    classes: tuple[str, ...]
    dataset: Dataset


def settings_of(job: Job) -> Continual:
    """Return the stages of a job that has some."""
    assert job.recipe.continual is not None
    return job.recipe.continual


def stage_data(job: Job) -> list[StageData]:
    """Open the data sets and return what each stage brings. Raises ConfigError for classes that cannot be trained."""
    found: list[StageData] = []
    problems: list[Problem] = []
    folder = Path(job.working_folder)
    with progress_on_stderr("shards indexed") as progress:
        for number, stage in enumerate(settings_of(job).stages):
            path = stage.path or job.recipe.data.path
            assert path is not None, "a recipe has sources if it has no path, and with stages it has none"
            try:
                dataset = open_dataset(path, folder, job.cluster.cache, progress)
            except DataError as error:
                raise ConfigError([Problem(f"continual.stages.{number}", str(error))]) from None
            found.append(StageData(path, stage.classes or dataset.classes, dataset))
            problems += _wrong_classes(found, f"continual.stages.{number}")
    if problems:
        raise ConfigError(problems)
    return found


def _wrong_classes(data: Sequence[StageData], key: str) -> list[Problem]:
    """Return what is wrong with the classes of the last of some stages."""
    *before, new = data
    if not new.classes:
        return [Problem(key, f"{new.dataset.shown} has no classes: stages are told apart by classes")]
    unknown = [name for name in new.classes if name not in new.dataset.classes]
    if unknown:
        seen = f"{new.dataset.shown} has no class {unknown[0]!r}. {nearest(unknown[0], new.dataset.classes)}"
        return [Problem(f"{key}.classes", seen)]
    again = [
        (number, name)
        for number, stage in enumerate(before, start=1)
        for name in stage.classes
        if stage.dataset.folder == new.dataset.folder and name in new.classes
    ]
    if again:
        number, name = again[0]
        seen = f"{name} of {new.dataset.shown} comes in stage {number} already: a stage brings other classes, as in "
        return [Problem(key, f"{seen}`classes: [...]`, or another `path`")]
    return []


def known_classes(data: Sequence[StageData]) -> tuple[str, ...]:
    """Return the classes of all these stages, in the order in which they come."""
    return tuple(dict.fromkeys(name for stage in data for name in stage.classes))


def stage_recipe(job: Job, data: Sequence[StageData], number: int, before: RunDir | None = None) -> Recipe:
    """Return the recipe of a stage, counted from 1, that goes on from the run of the stage `before`.

    Without that run it is a preview: from new weights, and with nothing that is read from the run. Raises ConfigError.
    """
    settings, recipe = settings_of(job), job.recipe
    stage = settings.stages[number - 1]
    values = recipe.model_dump(mode="json")
    values |= {
        "name": f"{recipe.name[:70]}-stage-{number}", "seed": recipe.seed + number - 1, "continual": None,
        "epochs": stage.epochs or recipe.epochs,
    }  # fmt: skip
    values["data"] |= {
        "path": None, "sources": _sources(data[:number], settings), "classes": list(known_classes(data[:number])),
    }  # fmt: skip
    tree = Tree(values, {(): f"continual.stages.{number - 1}"})
    for key, value in stage.changes.items():
        apply_override(tree, f"{key}={json.dumps(value)}", place=f"continual.stages.{number - 1}.changes")
    if number > 1:
        values["model"]["pretrained"] = None
    if before is not None:
        known = known_classes(data[: number - 1])
        all_new = settings.replay is None and not any(name in known for name in data[number - 1].classes)
        _go_on(values, settings, before, Path(job.working_folder), all_new)
    return validate(Recipe, tree)


def _sources(data: Sequence[StageData], settings: Continual) -> list[dict[str, Any]]:
    """Return the sources of a stage: those of the stages before it, and its own."""
    *before, new = [{"path": stage.path, "classes": list(stage.classes)} for stage in data]
    replay = settings.replay
    if replay is None or not before:
        return [*({**source, "train_samples": 0} for source in before), new]
    classes = [len(source["classes"]) for source in before]
    each = replay.samples // sum(classes)
    if not each:
        seen = f"{replay.samples:,} is less than one of each of {sum(classes):,} classes of earlier stages"
        raise ConfigError([Problem("continual.replay.samples", f"{seen}: write at least {sum(classes):,}")])
    share = Fraction(repr(replay.share))
    weights = [share * Fraction(count, sum(classes)) for count in classes] + [1 - share]
    whole = [float(weight) for weight in whole_weights(weights)]
    return [
        *(
            {**source, "train_samples": each * count, "weight": weight}
            for source, count, weight in zip(before, classes, whole[:-1], strict=True)
        ),
        {**new, "weight": whole[-1]},
    ]


def _go_on(values: dict[str, Any], settings: Continual, before: RunDir, folder: Path, all_new: bool) -> None:
    """Write into a recipe what a stage takes from the run of the stage before it."""
    run = str(before.root.relative_to(folder) if before.root.is_relative_to(folder) else before.root)
    values["model"]["pretrained"] = {"source": run, "outputs": "by_class"}
    if settings.ewc is not None:
        ewc = {"source": f"{run}/{before.ewc.name}", "strength": settings.ewc.strength}
        values["regularization"]["ewc"] = ewc
    if settings.lwf is not None:
        lwf = settings.lwf
        values["distillation"] = {
            "teachers": [{"source": run}], "outputs": "by_class", "temperature": lwf.temperature, "share": lwf.share,
            "loss_over": "other" if all_new else "all",
        }  # fmt: skip


def prepare_all(recipe: str, cluster: str, overrides: Sequence[str]) -> list[Prepared]:
    """Load and check a recipe; of one with stages, each of them. Raises ConfigError with every problem."""
    job = job_of(load(recipe, cluster, overrides))
    return [check(job)] if job.recipe.continual is None else previews(job)


def previews(job: Job) -> list[Prepared]:
    """Check every stage as far as it can be before the first one has run. Raises ConfigError with every problem."""
    require_own_ids(job)
    data = stage_data(job)
    cannot = refusals(job.recipe, job.cluster, data[0].dataset, CONTINUAL)
    if cannot:
        raise ConfigError(Problem("", message) for message in cannot)
    prepared: list[Prepared] = []
    problems: dict[str, Problem] = {}
    for number in range(1, len(data) + 1):
        try:
            prepared.append(check(job.model_copy(update={"recipe": stage_recipe(job, data, number)})))
        except ConfigError as error:  # most stages have the same problems: told once
            for problem in error.problems:
                problems.setdefault(str(problem), Problem(f"stage {number}", str(problem)))
    if problems:
        raise ConfigError(problems.values())
    _require_measurable(prepared[-1].job, data)
    return prepared


def _require_measurable(last: Job, data: Sequence[StageData]) -> None:
    """Raise ConfigError for a stage without samples in the split on which forgetting is measured."""
    split = last.recipe.data.test_split or last.recipe.data.validation_split
    assert split is not None
    arrangement = arrange(last)
    there = {id(part.dataset): len(part.sample_ids) for part in arrangement.parts[split]}
    for number, (dataset, stage) in enumerate(zip(arrangement.datasets, data, strict=True)):
        if not there.get(id(dataset)):
            seen = f"{stage.dataset.shown} has no samples of these classes in split {split!r}"
            problem = f"{seen}, on which forgetting is measured: import it with that split, or name another one"
            raise ConfigError([Problem(f"continual.stages.{number}", problem)])
