"""The network of a card, without what only training needs: no dropout rates, no ghost or frozen norms, float32."""

from __future__ import annotations

import torch
from torch import nn

from megabatch.configs.quantization import quantization_of
from megabatch.trainer.export.card import Card
from megabatch.trainer.models.load import load_model
from megabatch.trainer.network import replace_activations, replace_batch_norms
from megabatch.trainer.pruning.plan import Plan, shrink
from megabatch.trainer.quantization.layers import folded, quantize_layers

Tensors = dict[str, torch.Tensor]


def network_of(card: Card, tensors: Tensors) -> nn.Module:
    """Return the network with these weights, in evaluation mode. Raises TrainingError for a model that is not there."""
    return _with(_built(card), tensors)


def trained_network_of(card: Card, tensors: Tensors) -> nn.Module:
    """Return the network of a checkpoint as it was evaluated: where the recipe quantizes, it does so in every pass."""
    network = _built(card)
    if card.quantization is not None:
        quantize_layers(network, quantization_of(card.quantization), card.image_size)
    return _with(network, tensors)


def plain_network_of(card: Card, tensors: Tensors) -> nn.Module:
    """Return the network of a checkpoint as files have it: quantized weights as numbers, activations in float32."""
    if card.quantization is None:
        return network_of(card, tensors)
    return network_of(card, folded(trained_network_of(card, tensors)))


def _built(card: Card) -> nn.Module:
    settings = card.settings
    network = load_model(settings, card.outputs)
    if settings.activation is not None:
        replace_activations(network, settings.activation, card.image_size)
    if settings.replace_batch_norm is not None:
        replace_batch_norms(network, settings.replace_batch_norm)
    if card.pruning is not None:
        shrink(network, Plan(**card.pruning))
    return network


def _with(network: nn.Module, tensors: Tensors) -> nn.Module:
    network.load_state_dict(tensors)
    return network.float().eval().requires_grad_(False)


def example_images(card: Card) -> torch.Tensor:
    """Return two images to capture the network with; with one, torch.export would take 1 for the only number."""
    return torch.zeros(2, 3, card.image_size, card.image_size)
