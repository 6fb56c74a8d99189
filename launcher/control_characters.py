"""Control characters in what a job hands to other machines: nobody means them, and no quotes help everywhere."""

from __future__ import annotations

import re
from collections.abc import Mapping

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir

_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")  # the last ones end a line in YAML


def refuse_control_characters(job: Job, run_dir: RunDir, interpreter: str, environment: Mapping[str, str]) -> None:
    """Raise ConfigError for every text that has one."""
    values = {
        "the working folder": job.working_folder,
        "the run folder": str(run_dir.root),
        "the Python interpreter": interpreter,
        **{f"cluster.environment.{name}": value for name, value in environment.items()},
    }
    problems = [
        Problem("", f"{what} {value!r} has a control character. Use another one")
        for what, value in values.items()
        if _CONTROL.search(value)
    ]
    if problems:
        raise ConfigError(problems)
