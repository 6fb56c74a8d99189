"""Reads the JSON file that `engine.config_file` names into the job, so that a run goes on with what it began with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from megabatch.configs.engines import DeepSpeed
from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job


def with_engine_file(job: Job) -> Job:
    """Return the job with the content of the file; a job that was launched before has it. Raises ConfigError."""
    engine = job.recipe.engine
    if not isinstance(engine, DeepSpeed) or engine.config_file is None:
        return job
    if engine.config:
        if job.data_fingerprint:
            return job
        raise _mistake("engine", "write either config_file or config")
    content = _read(engine.config_file, Path(job.working_folder) / engine.config_file)
    try:
        filled = DeepSpeed(**{**dict(engine), "config": content})
    except ValidationError as error:
        messages = [details["msg"].removeprefix("Value error, ") for details in error.errors()]
        raise ConfigError(Problem("engine", message) for message in messages) from None
    return job.model_copy(update={"recipe": job.recipe.model_copy(update={"engine": filled})})


def _read(shown: str, file: Path) -> dict[str, Any]:  # Any: JSON
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise _mistake(
            "engine.config_file", f"{shown}: {error.strerror}. Paths start at the folder of the launch"
        ) from None
    except (ValueError, RecursionError) as error:
        raise _mistake("engine.config_file", f"{shown} is no JSON: {error}") from None
    if not isinstance(content, dict) or not content:
        raise _mistake("engine.config_file", f"{shown} has no keys: leave config_file out")
    return content


def _mistake(where: str, message: str) -> ConfigError:
    return ConfigError([Problem(where, message)])
