"""The formats by name. A module of them has SUFFIX ("" for a folder), `refuse`, `write` and `read`.

`refuse(card)` raises ConfigError for what the format cannot say. `read(target)` uses the
format's own library.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import nn

from megabatch.trainer.export.card import Card

Predict = Callable[[torch.Tensor], torch.Tensor]


class Format(Protocol):
    """What a module of a format has."""

    SUFFIX: str

    def refuse(self, card: Card) -> None:
        """Raise ConfigError, with an alternative, if this format cannot have this network."""
        ...

    def write(self, network: nn.Module, card: Card, target: Path) -> None:
        """Write the network and its card to a file, or folder, that does not exist."""
        ...

    def read(self, target: Path) -> Predict:
        """Return what predicts as the file does: images_NCHW to outputs_NK."""
        ...


_MODULES = {
    "safetensors": "safetensors_file",
    "torchscript": "torchscript_file",
    "onnx": "onnx_file",
    "exported-program": "exported_program",
    "timm": "timm_folder",
    "packed": "packed_file",
}


def format_of(name: str) -> Format:
    """Return the module of a format."""
    return cast(Format, importlib.import_module(f"megabatch.trainer.export.{_MODULES[name]}"))
