"""A model name to a network: timm/NAME, torchvision/NAME, or package.module:callable (also of the current folder)."""

from __future__ import annotations

import importlib
from contextlib import suppress

from torch import nn

from megabatch.configs.errors import nearest
from megabatch.configs.model import Model
from megabatch.configs.regularization import Regularization
from megabatch.trainer.errors import TrainingError

_NO_RATES = Regularization()


def load_model(settings: Model, num_classes: int, regularization: Regularization = _NO_RATES) -> nn.Module:
    """Build the network with random weights from torch's generator. Raises TrainingError naming what is known."""
    library, _, name = settings.name.partition("/")
    try:
        if library == "timm" and name:
            return _timm(name, settings, num_classes, regularization)
        if library == "torchvision" and name:
            return _torchvision(name, settings, num_classes)
        return _by_import_path(settings, num_classes)
    except TypeError as error:
        raise TrainingError(f"model {settings.name} with options {settings.options}: {error}") from error


def import_library(settings: Model) -> None:
    """Import the library of a model where it is one of those known by name, and there."""
    library, _, name = settings.name.partition("/")
    if name and library in ("timm", "torchvision"):
        with suppress(ImportError):  # told where the network is built
            importlib.import_module(library)


def _timm(name: str, settings: Model, num_classes: int, regularization: Regularization) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise TrainingError(f"timm has no model {name!r}. {_close(name, timm.list_models())}")
    rates = {"drop_rate": regularization.dropout, "drop_path_rate": regularization.stochastic_depth}
    wanted = {option: rate for option, rate in rates.items() if rate is not None}
    twice = sorted(wanted.keys() & settings.options.keys())
    if twice:
        raise TrainingError(f"model.options.{twice[0]} and regularization name the same rate: leave one of them out")
    network: nn.Module = timm.create_model(
        name, pretrained=False, num_classes=num_classes, **settings.options, **wanted
    )
    return network


def _torchvision(name: str, settings: Model, num_classes: int) -> nn.Module:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise TrainingError(f"torchvision has no model {name!r}. {_close(name, models.list_models(module=models))}")
    network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **settings.options)
    return network


def _by_import_path(settings: Model, num_classes: int) -> nn.Module:
    module_name, _, attribute = settings.name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise TrainingError(
            f"model {settings.name}: {error}. Modules are looked for in the current folder and among the installed ones"
        ) from error
    if not hasattr(module, attribute):
        names = [known for known in vars(module) if not known.startswith("_")]
        raise TrainingError(f"model {settings.name}: {module_name} has no {attribute!r}. {_close(attribute, names)}")
    network = getattr(module, attribute)(num_classes=num_classes, **settings.options)
    if not isinstance(network, nn.Module):
        raise TrainingError(f"model {settings.name}: returned {type(network).__name__}, not a torch.nn.Module")
    return network


def _close(name: str, known: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
    return nearest(name, close) if close else f"It has {len(known)} others."
