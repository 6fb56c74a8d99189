"""Writes a network as ONNX with numbers of few bits: `static`, `dynamic`, `weights-int8`, `weights-int4` or `trained`.

Static and dynamic quantization are onnxruntime's own; what was trained is written as it was trained.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime.quantization as ort
import torch
from numpy.typing import NDArray
from torch import nn

from megabatch.trainer.errors import TrainingError, first_line
from megabatch.trainer.export.card import KEY, Card
from megabatch.trainer.export.onnx_file import translated
from megabatch.trainer.pruning.layers import layers_with_weights
from megabatch.trainer.quantization.layers import make_plain, quantized_layers
from megabatch.trainer.quantization.onnx_weights import OPSET, WeightNode, quantize_weights, weight_nodes
from megabatch.trainer.quantization.ranges import ranges_of

Images = NDArray[np.float32]
_Quantize = Callable[[Path, Path, list[str]], None]  # from a file to a file, but for the nodes of these names
_PRODUCTS = ["Conv", "Gemm", "MatMul"]
_METHODS = {
    "minmax": ort.CalibrationMethod.MinMax,
    "entropy": ort.CalibrationMethod.Entropy,
    "percentile": ort.CalibrationMethod.Percentile,
}


def static(network: nn.Module, card: Card, kept: set[str], batches: Sequence[Images], method: str) -> onnx.ModelProto:
    """Quantize weights and activations to 8 bits, with the ranges that activations have on these images.

    Unsigned activations and signed weights are what x86 multiplies fastest (onnxruntime's own advice). A scale per
    output channel costs nothing then, and is more exact. Where there is attention only products are quantized: sums
    and a softmax of 8 bits lose most of it, and save no time.
    """

    def quantize(prepared: Path, target: Path, excluded: list[str]) -> None:
        attention = any(node.op_type == "Softmax" for node in onnx.load(prepared).graph.node)
        ort.quantize_static(
            prepared, target, _Batches(batches), quant_format=ort.QuantFormat.QDQ, per_channel=True,
            activation_type=ort.QuantType.QUInt8, weight_type=ort.QuantType.QInt8, nodes_to_exclude=excluded,
            calibrate_method=_METHODS[method], op_types_to_quantize=_PRODUCTS if attention else None,
        )  # fmt: skip

    return _by_onnxruntime(network, card, kept, quantize)


def dynamic(network: nn.Module, card: Card, kept: set[str]) -> onnx.ModelProto:
    """Quantize weights to 8 bits; the ranges of activations are looked up for every batch."""

    def quantize(prepared: Path, target: Path, excluded: list[str]) -> None:
        ort.quantize_dynamic(prepared, target, weight_type=ort.QuantType.QUInt8, nodes_to_exclude=excluded)

    return _by_onnxruntime(network, card, kept, quantize)


def weights_only(network: nn.Module, card: Card, kept: set[str], bits: int) -> onnx.ModelProto:
    """Quantize weights to 8 or 4 bits; they are made floats again when the network computes."""
    model = translated(network, card, OPSET)
    quantize_weights(model, _chosen(model, network, kept), bits)
    return stripped(model, card)


def trained(network: nn.Module, card: Card) -> onnx.ModelProto:
    """Write a network that was trained for int8 as it was trained: the same weights, bounds and places.

    A batch norm goes into the convolution before it. That multiplies an output channel of the weight by one number, and
    so the channel's scale and none of its integers.
    """
    network = copy.deepcopy(network)
    layers = quantized_layers(network).keys()
    make_plain(network)
    for one in ranges_of(network):
        one.write_as_onnx()
    model = translated(network, card, OPSET)
    nodes = [found for found in weight_nodes(model, layers_with_weights(network)) if found.layer in layers]
    quantize_weights(model, nodes, 8, biases=True)
    return stripped(model, card)


def stripped(model: onnx.ModelProto, card: Card) -> onnx.ModelProto:
    """Return the model without what only says where its nodes came from, and with the card."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.value_info[:], model.metadata_props[:]
    onnx.helper.set_model_props(model, {KEY: card.to_json()})
    return model


def _chosen(model: onnx.ModelProto, network: nn.Module, kept: set[str]) -> list[WeightNode]:
    found = [one for one in weight_nodes(model, layers_with_weights(network)) if one.layer not in kept]
    if not found:
        raise TrainingError("the ONNX graph has no convolution and no matrix product with a weight left to quantize")
    return found


def _by_onnxruntime(network: nn.Module, card: Card, kept: set[str], quantize: _Quantize) -> onnx.ModelProto:
    """Let onnxruntime write a file from a file."""
    model = translated(network, card)
    chosen = {one.node.name for one in _chosen(model, network, kept)}
    nodes = weight_nodes(model, layers_with_weights(network))
    excluded = [one.node.name for one in nodes if one.node.name not in chosen]
    del model.graph.value_info[:]  # of the exporter; onnxruntime finds its own, and takes none of other shapes
    with tempfile.TemporaryDirectory() as folder:
        whole, prepared, target = (Path(folder) / f"{name}.onnx" for name in ("whole", "prepared", "quantized"))
        try:
            onnx.save(model, whole)
            ort.quant_pre_process(whole, prepared, skip_optimization=True, skip_symbolic_shape=True)
            quantize(prepared, target, excluded)
        except Exception as error:  # of many kinds, for operators that it does not know
            raise TrainingError(
                f"onnxruntime cannot quantize this network: {first_line(error)}. Instead: --name weights-int8"
            ) from error
        return stripped(onnx.load(target), card)


class _Batches(ort.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Calibration images, as onnxruntime asks for them."""

    def __init__(self, batches: Sequence[Images]):
        self._batches: Iterator[Images] = iter(batches)

    def get_next(self) -> dict[str, Images] | None:
        """Return the next batch, None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def images_of(batches: Sequence[torch.Tensor]) -> list[Images]:
    """Return images as onnxruntime takes them: in batches of equal size, as its histograms take no shorter one."""
    images = torch.cat(list(batches)).numpy()
    largest = max(len(batch) for batch in batches)
    size = next(size for size in range(largest, 0, -1) if len(images) % size == 0)
    return [images[begin : begin + size] for begin in range(0, len(images), size)]
