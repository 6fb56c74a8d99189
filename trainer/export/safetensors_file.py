"""Weights by name in one safetensors file, the card in its metadata. Whoever loads it builds the network."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from megabatch.trainer.export.card import KEY, Card
from megabatch.trainer.export.formats import Predict
from megabatch.trainer.export.network import network_of

SUFFIX = ".safetensors"


def refuse(card: Card) -> None:
    """Refuse nothing: weights are weights."""


def write(network: nn.Module, card: Card, target: Path) -> None:
    """Write weights and buffers in float32."""
    # Copies: safetensors refuses tensors that share memory, as tied weights do.
    tensors = {name: tensor.clone().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, target, metadata={"format": "pt", KEY: card.to_json()})


def read(target: Path) -> Predict:
    """Return the network that the card describes, with these weights."""
    with safe_open(target, framework="pt") as opened:
        card = Card.from_json(opened.metadata()[KEY])
    return network_of(card, load_file(target))
