"""What the outputs of a network stand for, kept in the run folder so that a run can be used without its data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.configs.targets import NumbersTarget
from megabatch.data.arrangement import Arrangement, arrange, shown_data
from megabatch.data.errors import DataError
from megabatch.trainer.process import write_json


@dataclass(frozen=True)
class Outputs:
    """How many outputs there are, and their names where they have some: classes, or the keys of numbers."""

    number: int
    names: tuple[str, ...]


def record_outputs(run_dir: RunDir, arrangement: Arrangement) -> None:
    """Write RUN_DIR/outputs.json."""
    write_json(run_dir.outputs, asdict(_outputs_of(arrangement)))


def read_outputs(run_dir: RunDir, job: Job) -> Outputs:
    """Return what the run's folder says, or its data. Raises DataError if both are gone."""
    if run_dir.outputs.is_file():
        values = json.loads(run_dir.outputs.read_text(encoding="utf-8"))
        return Outputs(values["number"], tuple(values["names"]))
    try:
        return _outputs_of(arrange(job))
    except DataError as error:
        raise DataError(
            f"{run_dir.root}: has no {run_dir.outputs.name}, and the classes cannot be read from {shown_data(job)}: "
            f"{error}. Put the data back"
        ) from None


def _outputs_of(arrangement: Arrangement) -> Outputs:
    target = arrangement.recipe.data.target
    names = target.keys if isinstance(target, NumbersTarget) else arrangement.datasets[0].classes
    return Outputs(arrangement.num_outputs, tuple(names))
