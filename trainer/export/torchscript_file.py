"""The network traced to TorchScript, in one archive that torch and libtorch (C++) load without its Python code.

torch calls TorchScript deprecated from 2.15 on; what is new should load exported programs instead.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from megabatch.trainer.errors import TrainingError, first_line
from megabatch.trainer.export.card import FILE, Card
from megabatch.trainer.export.formats import Predict
from megabatch.trainer.export.network import example_images

SUFFIX = ".pt"


def refuse(card: Card) -> None:
    """Refuse nothing beforehand: whether a network can be traced shows only when it is tried."""


def write(network: nn.Module, card: Card, target: Path) -> None:
    """Trace the network and write the archive, with the card as an extra file. Raises TrainingError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated, and of sizes that the comparison will test
        try:
            traced = torch.jit.trace(network, example_images(card))  # type: ignore[no-untyped-call]
        except Exception as error:  # a network may do anything that tracing does not know
            raise TrainingError(
                f"torch.jit.trace cannot trace this network: {first_line(error)}. "
                "Instead: --format exported-program, or safetensors, which has the weights alone"
            ) from error
        torch.jit.save(traced, str(target), _extra_files={FILE: card.to_json()})


def read(target: Path) -> Predict:
    """Return the traced network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        loaded: Predict = torch.jit.load(str(target))  # type: ignore[no-untyped-call]
    return loaded
