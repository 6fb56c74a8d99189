"""Reads the tensors that `model.pretrained` names. Nothing is unpickled but tensors and plain containers of them."""

from __future__ import annotations

import argparse
import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from megabatch.configs.job import Job
from megabatch.configs.pretrained import Pretrained, WeightsSource
from megabatch.configs.recipe import Recipe
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import checkpoint
from megabatch.trainer.errors import TrainingError, first_line

Tensors = dict[str, torch.Tensor]
# Where training scripts put the weights beside other things (timm, torchvision, Lightning); averaged ones come first.
_INSIDE = ("state_dict_ema", "model_ema", "state_dict", "model")


class Weights(NamedTuple):
    """Tensors by name, and in words where they are from."""

    tensors: Tensors
    origin: str


def weights_to_begin_with(job: Job, run_dir: RunDir | None = None) -> Weights | None:
    """Return the weights that the recipe asks for; None if it asks for none, or if the run has a checkpoint already.

    Raises TrainingError for what cannot be read, or is not what it was when the job was written.
    """
    settings = job.recipe.model.pretrained
    if settings is None or (run_dir is not None and checkpoint.newest(run_dir)[0] is not None):
        return None
    if settings.of_timm:
        return _from_timm(settings, job.recipe)
    return read_weights(settings, Path(job.working_folder), "model.pretrained")


def read_weights(settings: WeightsSource, folder: Path, key: str) -> Weights:
    """Return the weights of a file or of a checkpoint; `key` is what messages call it.

    Raises TrainingError for what is gone, cannot be read, or is not what it was when the job was written.
    """
    path = folder / settings.source
    if not path.exists():
        raise TrainingError(f"{key}: {path} is not there any more: put it back")
    _require_unchanged(path, settings, key)
    if path.is_dir():
        return Weights(checkpoint.load_network(path), settings.source)
    tensors, inside = tensors_in(_read(path, key), path, key)
    return Weights(tensors, settings.source + (f" ({inside})" if inside else ""))


def _require_unchanged(path: Path, settings: WeightsSource, key: str) -> None:
    """Raise TrainingError if the bytes are not those that the launcher saw: a job may wait long before it starts."""
    with (path / "manifest.json" if path.is_dir() else path).open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if settings.sha256 not in (None, found):
        raise TrainingError(f"{key}: {path} changed since the job was written. Launch again")


def _read(path: Path, key: str) -> Any:  # Any: whatever somebody saved
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # The arguments that timm and torchvision save beside the weights: an object with plain values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise TrainingError(
            f"{key}: {path} cannot be read: it is damaged, or has Python objects beside its tensors, and to "
            "load those is to run code. Where you trust it, write its weights alone: "
            "safetensors.torch.save_file(network.state_dict(), FILE)"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        problem = first_line(error)
        if "TorchScript" in problem:
            problem = "it is a TorchScript program, not weights (megabatch export --format safetensors writes those)"
        raise TrainingError(f"{key}: {path} cannot be read: {problem}") from error


def tensors_in(loaded: Any, path: Path, key: str = "model.pretrained") -> tuple[Tensors, str]:
    """Return the tensors by name, and under which key of the file they were ("" at its top). Raises TrainingError."""
    inside = ""
    if isinstance(loaded, Mapping):
        inside = next((key for key in _INSIDE if isinstance(loaded.get(key), Mapping)), "")
        loaded = loaded[inside] if inside else loaded
    named = loaded.items() if isinstance(loaded, Mapping) else ()
    tensors = {name: value for name, value in named if isinstance(name, str) and isinstance(value, torch.Tensor)}
    if not tensors:
        raise TrainingError(
            f"{key}: {path} has no tensors by name, at its top or under {', '.join(_INSIDE)}. Write a "
            "state_dict: safetensors.torch.save_file(network.state_dict(), FILE)"
        )
    return tensors, inside


def _from_timm(settings: Pretrained, recipe: Recipe) -> Weights:
    """Let timm build the model with its own weights and classes, which also fits them to the options."""
    import timm

    of_timm = recipe.model.name.startswith("timm/")
    name = settings.timm_name or recipe.model.name.removeprefix("timm/")
    if not timm.is_model(name):
        raise TrainingError(f"model.pretrained: timm has no model {name!r}")
    try:
        network: nn.Module = timm.create_model(name, pretrained=True, **(recipe.model.options if of_timm else {}))
    except Exception as error:  # what timm and the Hugging Face hub raise without a network has many names
        raise TrainingError(
            f"model.pretrained: timm could not give its weights of {name}: {first_line(error)}. On a machine without "
            "internet, fetch the file elsewhere and write model.pretrained: FILE"
        ) from error
    return Weights(network.state_dict(), f"timm's weights of {name}")
