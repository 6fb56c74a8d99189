"""Which classes a trained run knows, by name, and which outputs of another training they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megabatch.configs.errors import ConfigError, Problem, nearest
from megabatch.configs.job import Job
from megabatch.configs.json_files import read_json
from megabatch.configs.pretrained import Outputs
from megabatch.configs.run_dir import RunDir

_KEY = "model.pretrained.outputs"


def classes_of_run(run_dir: RunDir) -> list[str]:
    """Return the names of the classes that a run was trained for, in the order of its outputs. Raises ValueError."""
    names: list[str] | None = read_json(run_dir.outputs).get("names")
    if names is None:
        raise ValueError(
            f"{run_dir.outputs} is missing, which names the classes: `megabatch eval` of the run writes it"
        )
    return names


def places(known: Sequence[str], classes: Sequence[str]) -> tuple[int, ...]:
    """Return which of `classes` each known class is. Raises ValueError for one that is not among them.

    >>> places(["cat", "dog"], ["dog", "bird", "cat"])
    (2, 0)
    """
    lost = [name for name in known if name not in classes]
    if lost:
        raise ValueError(
            f"was trained for class {lost[0]!r} too, which these data do not have. {nearest(lost[0], classes)} A head "
            "grows: write data.classes with all classes of the source and the new ones"
        )
    return tuple(classes.index(name) for name in known)


def with_outputs(job: Job, classes: Sequence[str]) -> Job:
    """Return the job with the outputs here that those of the run in `model.pretrained` are, where it asks by class.

    `classes` are those of the data. Raises ConfigError for classes that do not fit.
    """
    settings = job.recipe.model.pretrained
    if settings is None or settings.outputs is None:
        return job
    try:
        outputs = _outputs(settings.outputs, Path(job.working_folder) / settings.source, classes)
    except ValueError as error:
        raise ConfigError([Problem(_KEY, f"{settings.source}: {error}")]) from None
    pretrained = settings.model_copy(update={"outputs": outputs})
    model = job.recipe.model.model_copy(update={"pretrained": pretrained})
    return job.model_copy(update={"recipe": job.recipe.model_copy(update={"model": model})})


def _outputs(asked: Outputs, source: Path, classes: Sequence[str]) -> tuple[int, ...]:
    if asked == "by_class":
        if not source.is_dir():
            raise ValueError(
                "a file does not name its classes: write a list, which output here each of its outputs is, as in [0, 1]"
            )
        found = places(classes_of_run(RunDir(source.absolute().parent.parent)), classes)
    else:
        found = asked
    if max(found) >= len(classes):
        raise ValueError(f"output {max(found)} is beyond the {len(classes):,} classes of these data")
    if len(found) == len(classes) and found != tuple(range(len(found))):
        raise ValueError(
            "has the same classes in another order: write data.classes in its order, or leave the head out (leave_out)"
        )
    return found
