"""The graph of the network as torch.export sees it, in one .pt2 archive that needs no Python code of the network."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from megabatch.trainer.errors import TrainingError, first_line
from megabatch.trainer.export.card import FILE, Card
from megabatch.trainer.export.formats import Predict
from megabatch.trainer.export.network import example_images

SUFFIX = ".pt2"


def refuse(card: Card) -> None:
    """Refuse nothing beforehand: whether a network can be captured shows only when it is tried."""


def captured(network: nn.Module, card: Card) -> torch.export.ExportedProgram:
    """Return the graph for any number of images. Raises TrainingError for a network that cannot be captured."""
    try:
        program = torch.export.export(
            network, (example_images(card),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), strict=False
        )
    except Exception as error:  # a network may do anything that torch.export does not know
        raise TrainingError(
            f"torch.export cannot capture this network for any number of images: {first_line(error)}. "
            "Instead: --format safetensors, which has the weights alone"
        ) from error
    # The examples would be written as a pickle; without them there is none in the archive.
    program._example_inputs = None
    return program


def write(network: nn.Module, card: Card, target: Path) -> None:
    """Write the archive, with the card as an extra file."""
    torch.export.save(captured(network, card), target, extra_files={FILE: card.to_json()})


def read(target: Path) -> Predict:
    """Return the graph as a module."""
    return torch.export.load(target).module()
