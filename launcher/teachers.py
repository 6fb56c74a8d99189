"""Settles what `distillation.teachers` mean before a job is written, and refuses those that do not fit the student.

A run says itself which network it trained, for which classes, and how pixels were scaled (job.yaml, outputs.json).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from megabatch.configs.differences import first_difference
from megabatch.configs.distillation import Distillation, Teacher, TeacherNetwork
from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.load import read_job
from megabatch.configs.normalization import Fixed
from megabatch.configs.recipe import Recipe
from megabatch.configs.run_dir import RunDir
from megabatch.configs.targets import NumbersTarget
from megabatch.launcher.known_classes import classes_of_run, places
from megabatch.launcher.pretrained import settled


def with_teachers(job: Job, classes: Sequence[str]) -> Job:
    """Return the job with the checkpoint, the SHA-256, the network and the scaling of each teacher.

    `classes` are those of the data. Raises ConfigError with everything that does not fit.
    """
    settings = job.recipe.distillation
    if settings is None:
        return job
    if settings.outputs is None:
        outputs, taught = None, classes
    else:
        outputs = _known_outputs(job, settings, classes)
        taught = [classes[number] for number in outputs]
    found = [
        _settled(teacher, job, taught, f"distillation.teachers.{number}")
        for number, teacher in enumerate(settings.teachers)
    ]
    problems = [problem for _, of_teacher in found for problem in of_teacher]
    if problems:
        raise ConfigError(problems)
    distillation = settings.model_copy(update={"teachers": tuple(teacher for teacher, _ in found), "outputs": outputs})
    return job.model_copy(update={"recipe": job.recipe.model_copy(update={"distillation": distillation})})


def _known_outputs(job: Job, settings: Distillation, classes: Sequence[str]) -> tuple[int, ...]:
    """Return which classes the first teacher knows; the others are compared with it like with a student."""
    teacher = settings.teachers[0]
    key = "distillation.outputs"
    if isinstance(job.recipe.data.target, NumbersTarget):
        raise ConfigError([Problem(key, "is for teachers that know some of the classes, and the target is numbers")])
    try:
        if settings.outputs == "by_class":
            checkpoint = Path(job.working_folder) / settled(teacher, job.working_folder, key).source
            if not checkpoint.is_dir():
                raise ValueError("a file does not name its classes: write a list, which class each of its outputs is")
            return places(classes_of_run(RunDir(checkpoint.absolute().parent.parent)), classes)
        assert settings.outputs is not None
        if max(settings.outputs) >= len(classes):
            raise ValueError(f"{max(settings.outputs)} is beyond the {len(classes):,} classes of these data")
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError([Problem(key, f"{teacher.source}: {error}")]) from None
    return settings.outputs


def _settled(teacher: Teacher, job: Job, classes: Sequence[str], key: str) -> tuple[Teacher, list[Problem]]:
    """Return a teacher as job.yaml has it, and what is wrong with it."""
    try:
        teacher = settled(teacher, job.working_folder, key)
    except ConfigError as error:
        return teacher, list(error.problems)
    path = Path(job.working_folder) / teacher.source
    try:
        teacher = _of_run(teacher, path, job.recipe, classes) if path.is_dir() else _of_file(teacher, job.recipe)
    except (ValueError, OSError) as error:
        return teacher, [Problem(key, f"{teacher.source}: {error}")]
    return teacher, [Problem(key, f"{teacher.source}: {seen}") for seen in _other_scaling(teacher, job.recipe)]


def _of_file(teacher: Teacher, recipe: Recipe) -> Teacher:
    if teacher.model is None:
        raise ValueError("a file does not say which network its weights are of: write `model: {name: ...}` beside it")
    return teacher.model_copy(update={"normalize": teacher.normalize or recipe.data.normalize})


def _of_run(teacher: Teacher, checkpoint: Path, recipe: Recipe, classes: Sequence[str]) -> Teacher:
    """Return the teacher with what its run says. Raises ValueError if the run trained for something else."""
    run_dir = RunDir(checkpoint.absolute().parent.parent)
    if not run_dir.job.is_file():
        raise ValueError(f"{run_dir.job} is missing, which says how the network is built: name the run folder")
    its = read_job(run_dir.job).recipe
    if its.quantization is not None:
        raise ValueError(
            f"was trained with quantization {its.quantization.name}, and a teacher computes in full precision. Export "
            "its quantized weights (megabatch export --format safetensors), and name that file with `model`"
        )
    if its.data.image_size != recipe.data.image_size:
        raise ValueError(
            f"was trained on images of {its.data.image_size} pixels, and data.image_size is {recipe.data.image_size}: "
            "both see the same images. Train one of them with the other's size"
        )
    if its.data.target.name != recipe.data.target.name or (
        isinstance(recipe.data.target, NumbersTarget) and its.data.target != recipe.data.target
    ):
        raise ValueError(
            f"was trained towards data.target={its.data.target!r}, and here it is {recipe.data.target!r}: the outputs "
            "mean something else. Name a teacher with the same target"
        )
    if not isinstance(recipe.data.target, NumbersTarget):
        _require_same_classes(run_dir, classes)
    own = {"model": TeacherNetwork.of(its.model), "normalize": its.data.normalize}
    for name, value in own.items():
        if getattr(teacher, name) not in (None, value):
            raise ValueError(f"the {name} of a run is what its job.yaml says, and that is another one: leave it out")
    return teacher.model_copy(update=own)


def _require_same_classes(run_dir: RunDir, classes: Sequence[str]) -> None:
    its = classes_of_run(run_dir)
    if its == list(classes):
        return
    number, there, here = first_difference(its, classes)
    raise ValueError(
        f"was trained for other classes: its output {number} is {there}, and in these data class {number} is {here} "
        f"({len(its):,} classes there, {len(classes):,} here). A teacher needs the same classes in the same order, or "
        "distillation.outputs=by_class if it knows some of them"
    )


def _other_scaling(teacher: Teacher, recipe: Recipe) -> Iterator[str]:
    its, own = teacher.normalize, recipe.data.normalize
    if its != own and not (isinstance(its, Fixed) and isinstance(own, Fixed)):
        yield (
            f"was trained with pixels scaled by {its!r}, and data.normalize is {own!r}: one cannot be had from the "
            "other, as they go by each image. Write the teacher's data.normalize into the recipe"
        )
