"""Settles what `model.pretrained` means before a job is written: which checkpoint of a run, and which bytes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

from megabatch.configs.best_checkpoint import best_checkpoint
from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.pretrained import SUFFIXES, WeightsSource
from megabatch.configs.run_dir import CHECKPOINT_PREFIX, RunDir

_KEY = "model.pretrained"
Weights = TypeVar("Weights", bound=WeightsSource)


def with_pretrained(job: Job) -> Job:
    """Return the job with the checkpoint and the SHA-256 that `model.pretrained` stands for.

    Raises ConfigError if there is no such thing, or if it has another SHA-256 than the job says. A file that is gone
    is no mistake in a run that has begun: its checkpoints have all that it needs.
    """
    settings = job.recipe.model.pretrained
    if settings is None or settings.of_timm:
        return job
    path = Path(job.working_folder) / settings.source
    if not path.exists() and job.data_fingerprint:
        return job
    model = job.recipe.model.model_copy(update={"pretrained": settled(settings, job.working_folder, _KEY)})
    return job.model_copy(update={"recipe": job.recipe.model_copy(update={"model": model})})


def with_ewc(job: Job) -> Job:
    """Return the job with the SHA-256 of the file in `regularization.ewc`. Raises ConfigError if there is none."""
    settings = job.recipe.regularization.ewc
    if settings is None:
        return job
    key = "regularization.ewc"
    if (Path(job.working_folder) / settings.source).is_dir():
        seen = f"{settings.source} is a folder: name the file with what mattered, ewc.safetensors in the run of a stage"
        raise ConfigError([Problem(key, seen)])
    update = {"ewc": settled(settings, job.working_folder, key)}
    regularization = job.recipe.regularization.model_copy(update=update)
    return job.model_copy(update={"recipe": job.recipe.model_copy(update={"regularization": regularization})})


def recipe_of_checkpoint(folder: Path) -> dict[str, Any]:
    """Return the recipe of the run that wrote a checkpoint, as plain values. Raises ConfigError if it is damaged."""
    try:
        recipe = json.loads((folder / "state.json").read_text(encoding="utf-8")).get("recipe", {})
    except (OSError, ValueError) as error:
        raise ConfigError([Problem(_KEY, f"{folder} is damaged ({error})")]) from None
    found: dict[str, Any] = recipe
    return found


def settled(settings: Weights, working_folder: str, key: str) -> Weights:
    """Return the settings with the checkpoint that a run folder stands for, and the SHA-256.

    Raises ConfigError, under the key of the recipe, if there is no such thing or if it has another SHA-256.
    """
    try:
        path = Path(working_folder) / settings.source
        chosen, hashed = _checkpoint(path) if path.is_dir() else (path, path)
        _require_weights(hashed, settings)
        found = _sha256(hashed)
        if settings.sha256 not in (None, found):
            raise ValueError(
                f"{settings.source} is not what it was: its SHA-256 is {found}, {key}.sha256 is "
                f"{settings.sha256}. Put the old file back, or start a new run with this one"
            )
    except ValueError as error:
        raise ConfigError([Problem(key, str(error))]) from None
    source = settings.source if chosen == path else str(Path(settings.source) / chosen.relative_to(path))
    return settings.model_copy(update={"source": source, "sha256": found})


def _checkpoint(folder: Path) -> tuple[Path, Path]:
    """Return a checkpoint folder, of a run folder the best one, and its manifest, which has the hashes of all files."""
    if (folder / "manifest.json").is_file():
        return folder, folder / "manifest.json"
    if not RunDir(folder).job.is_file():
        raise ValueError(
            f"{folder} is no run folder and no checkpoint. Of another folder name the file: {_files(folder)}"
        )
    if stages := RunDir(folder).stages():
        raise ValueError(f"{folder} has stages, each with checkpoints of its own: name one, such as {stages[-1].root}")
    complete = sorted(RunDir(folder).checkpoints.glob(f"{CHECKPOINT_PREFIX}*/manifest.json"))
    if not complete:
        raise ValueError(f"{folder} has no checkpoint yet: train it first, or name another source")
    newest = complete[-1].parent
    try:
        chosen = best_checkpoint(RunDir(folder), newest)
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{newest} is damaged ({error}): name another checkpoint of the run") from None
    return chosen, chosen / "manifest.json"


def _require_weights(file: Path, settings: WeightsSource) -> None:
    if not file.is_file():
        raise ValueError(f"{file}: no such file or folder. Paths start at the folder of the launch")
    if file.name != "manifest.json" and file.suffix not in SUFFIXES:
        raise ValueError(f"{settings.source}: weights are in a file of type {', '.join(SUFFIXES)}, or in a run folder")


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None


def _files(folder: Path) -> str:
    found = sorted(file.name for file in folder.iterdir() if file.suffix in SUFFIXES)
    return ", ".join(found) or f"it has none of type {', '.join(SUFFIXES)}"
