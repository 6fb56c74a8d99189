"""Trackers of the user's own: functions that go through the lines of a run, found by module:name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence

from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.trackers.lines import Line

OwnTracker = Callable[[Job, RunDir, Iterator[Line]], None]


def own_tracker(name: str) -> OwnTracker:
    """Return the function that a name means. Raises TrainingError if there is none."""
    module, _, function = name.partition(":")
    try:
        found: OwnTracker = getattr(importlib.import_module(module), function)
    except Exception as error:  # a module of the user's own may do anything when it is imported
        raise TrainingError(f"tracking.own: {name}: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise TrainingError(
            f"tracking.own: {name} is of type {type(found).__name__}: write the name of a function that takes "
            "(job, run_dir, lines)"
        )
    return found


def problems_of_own(names: Sequence[str]) -> list[str]:
    """Return a message for each name behind which there is no tracker."""
    problems = []
    for name in names:
        try:
            own_tracker(name)
        except TrainingError as error:
            problems.append(str(error))
    return problems
