"""Weights of few values in as many bits as they need, in one safetensors file: smaller, and read back bit for bit.

A quantized weight NAME is there as NAME.packed, bytes with the number of each value, and NAME.scales, one float32 for
an output channel. The metadata has shape, bits, and which values the numbers stand for. Everything else is float32.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.quantization import Binary, Int8, quantization_of
from megabatch.trainer.export.card import KEY, Card
from megabatch.trainer.export.formats import Predict
from megabatch.trainer.export.network import network_of
from megabatch.trainer.quantization.layers import folded, quantized_layers
from megabatch.trainer.quantization.weights import QuantizedWeight, num_values, quantized

SUFFIX = ".safetensors"
PACKED = "packed"  # of the metadata: what is packed
Bytes = NDArray[np.uint8]


def refuse(card: Card) -> None:
    """Refuse what has no weights of few values."""
    settings = quantization_of(card.quantization) if card.quantization is not None else None
    if settings is None:
        problem = "the run was not trained with quantization. Instead: --format safetensors, or megabatch quantize"
        raise ConfigError([Problem("--format packed", problem)])
    if isinstance(settings, Int8):
        problem = "of a run with int8 write the file that computes in 8 bits: megabatch quantize"
        raise ConfigError([Problem("--format packed", problem)])


@torch.no_grad()
def write(network: nn.Module, card: Card, target: Path) -> None:
    """Write a network as it was trained, its quantized weights packed."""
    tensors, described = folded(network), {}
    for name, layer in quantized_layers(network).items():
        found = quantized(layer.weight, layer.quantization)
        values = num_values(layer.quantization)
        spacing = 2.0 if isinstance(layer.quantization, Binary) else 1.0
        lowest = -spacing * (values - 1) / 2
        numbers = ((found.multipliers - lowest) / spacing).to(torch.uint8).flatten().numpy()
        bits = (values - 1).bit_length()
        del tensors[f"{name}.weight"]
        tensors[f"{name}.weight.packed"] = torch.from_numpy(packed(numbers, bits))
        tensors[f"{name}.weight.scales"] = found.scales
        shape = list(layer.weight.shape)
        described[f"{name}.weight"] = {"shape": shape, "bits": bits, "lowest": lowest, "spacing": spacing}
    metadata = {"format": "pt", KEY: card.to_json(), PACKED: json.dumps(described)}
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, target, metadata=metadata)


def read(target: Path) -> Predict:
    """Return the network that the card describes, with the weights that were packed."""
    with safe_open(target, framework="pt") as opened:
        card = Card.from_json(opened.metadata()[KEY])
    return network_of(card, unpacked(target))


def unpacked(target: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a packed file, with weights as the network computes with them, bit for bit."""
    with safe_open(target, framework="pt") as opened:
        described: dict[str, dict[str, Any]] = json.loads(opened.metadata()[PACKED])  # Any: numbers and a list
    tensors = load_file(target)
    for name, one in described.items():
        numbers = numbers_of(tensors.pop(f"{name}.packed").numpy(), one["bits"], int(np.prod(one["shape"])))
        multipliers = torch.from_numpy(numbers).float() * one["spacing"] + one["lowest"]
        tensors[name] = QuantizedWeight(multipliers.view(one["shape"]), tensors.pop(f"{name}.scales")).values()
    return tensors


def packed(numbers: Bytes, bits: int) -> Bytes:
    """Return numbers below 2**bits in as few bytes as there can be, the lowest bit first.

    >>> packed(np.array([1, 0, 2, 1], np.uint8), 2).tolist()
    [97]
    """
    single = (numbers[:, None] >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(single, bitorder="little")


def numbers_of(content: Bytes, bits: int, count: int) -> Bytes:
    """Return the numbers that were packed.

    >>> numbers_of(np.array([97], np.uint8), 2, 4).tolist()
    [1, 0, 2, 1]
    """
    single = np.unpackbits(content, count=count * bits, bitorder="little").reshape(count, bits)
    numbers: Bytes = (single << np.arange(bits, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)
    return numbers
