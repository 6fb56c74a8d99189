"""Weights of 8 or 4 bits in an ONNX graph: an integer initializer and a DequantizeLinear where a float one was.

The arithmetic of 8 bits is that of weights.py, so a network that was trained for it keeps its values, to the last bits
of a batch norm that went into the weights.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from megabatch.configs.quantization import Int8
from megabatch.trainer.quantization.weights import quantized

Array = NDArray[Any]  # Any: floats, or integers of 4 to 32 bits
OPSET = 21  # the first with integers of 4 bits
_BLOCK = 32  # weights along the inputs that share a scale of 4 bits, as onnxruntime's MatMulNBits has them
_INT4_MOST = 7
_SCOPES = "pkg.torch.onnx.name_scopes"


class WeightNode(NamedTuple):
    """A node that multiplies with a constant weight, and its layer in the network.

    `outputs` and `inputs` are axes of the weight.
    """

    node: onnx.NodeProto
    layer: str | None
    outputs: int
    inputs: int


def weight_nodes(model: onnx.ModelProto, layers: Collection[str]) -> Iterator[WeightNode]:
    """Yield the convolutions and matrix products with a constant weight."""
    dimensions = {one.name: len(one.dims) for one in model.graph.initializer}
    for node in model.graph.node:
        if len(node.input) < 2 or node.input[1] not in dimensions:
            continue
        layer = _layer_of(node, layers)
        if node.op_type == "Conv":
            yield WeightNode(node, layer, 0, 1)
        elif node.op_type == "Gemm":
            turned = any(one.name == "transB" and one.i for one in node.attribute)
            yield WeightNode(node, layer, *((0, 1) if turned else (1, 0)))
        elif node.op_type == "MatMul" and dimensions[node.input[1]] == 2:
            yield WeightNode(node, layer, 1, 0)


def _layer_of(node: onnx.NodeProto, layers: Collection[str]) -> str | None:
    """A convolution with a batch norm in it is said to be of that module, but its weight has the old name."""
    named = str(node.input[1]).removesuffix(".weight")
    if named in layers:
        return named
    told = next((one.value for one in node.metadata_props if one.key == _SCOPES), "[]")
    scopes: list[str] = json.loads(told.replace("'", '"'))
    return next((scope for scope in reversed(scopes) if scope in layers), None)


def quantize_weights(model: onnx.ModelProto, nodes: Iterable[WeightNode], bits: int, biases: bool = False) -> None:
    """Quantize the weights of nodes in place. `biases`: those of nodes with a quantized input too, to 32 bits."""
    graph = _Graph(model)
    done: dict[str, tuple[str, Array]] = {}
    for found in nodes:
        name = found.node.input[1]
        if name not in done:
            weight = graph.take(name)
            done[name] = _int8(graph, name, weight, found) if bits == 8 else _int4(graph, name, weight, found)
        found.node.input[1], scales = done[name]
        if biases:
            _quantize_bias(graph, found.node, scales)
    graph.put_first()


def _int8(graph: _Graph, name: str, weight: Array, found: WeightNode) -> tuple[str, Array]:
    outputs_first = torch.from_numpy(np.moveaxis(weight, found.outputs, 0).copy())
    multipliers, scales = (tensor.numpy() for tensor in quantized(outputs_first, Int8()))
    integers = np.ascontiguousarray(np.moveaxis(multipliers, 0, found.outputs)).astype(np.int8)
    return graph.dequantized(name, integers, scales, axis=found.outputs), scales


def _int4(graph: _Graph, name: str, weight: Array, found: WeightNode) -> tuple[str, Array]:
    """-7 to 7, with a scale for every 32 weights along the inputs (the last block may be shorter)."""
    last = np.moveaxis(weight, found.inputs, -1)
    padded = np.pad(last, [*[(0, 0)] * (last.ndim - 1), (0, -last.shape[-1] % _BLOCK)])
    blocks = padded.reshape(*last.shape[:-1], -1, _BLOCK)
    scales = (np.abs(blocks).max(axis=-1) / _INT4_MOST).astype(np.float32)
    scales[scales == 0] = 1.0
    steps = (blocks / scales[..., None]).round().clip(-_INT4_MOST, _INT4_MOST)
    whole = np.moveaxis(steps.reshape(padded.shape)[..., : last.shape[-1]], -1, found.inputs)
    scales = np.ascontiguousarray(np.moveaxis(scales, -1, found.inputs))
    integers = np.ascontiguousarray(whole).astype(ml_dtypes.int4)
    return graph.dequantized(name, integers, scales, axis=found.inputs, block_size=_BLOCK), scales


def _quantize_bias(graph: _Graph, node: onnx.NodeProto, scales: Array) -> None:
    """A bias is added to sums of products, so its scale is the product of theirs (Jacob et al. 2018, section 2.4)."""
    source = graph.giver(node.input[0])
    if len(node.input) < 3 or source is None or source.op_type != "DequantizeLinear":
        return
    of_product = (graph.constant(source.input[1]) * scales).astype(np.float32)
    most = np.iinfo(np.int32).max
    integers = (graph.take(node.input[2]) / of_product).round().clip(-most, most).astype(np.int32)
    node.input[2] = graph.dequantized(node.input[2], integers, of_product, axis=0)


class _Graph:
    """Constants of a graph by name, and the nodes that are to come before the others."""

    def __init__(self, model: onnx.ModelProto):
        self._graph = model.graph
        self._constants = {one.name: one for one in model.graph.initializer}
        self._givers = {output: node for node in model.graph.node for output in node.output}
        self._new: list[onnx.NodeProto] = []

    def giver(self, name: str) -> onnx.NodeProto | None:
        """Return the node that gives a tensor; None for an input or a constant."""
        return self._givers.get(name)

    def constant(self, name: str) -> Array:
        """Return the value of a constant."""
        return onnx.numpy_helper.to_array(self._constants[name])

    def take(self, name: str) -> Array:
        """Return the value of a constant, and take it out of the graph unless another node has it too."""
        value = self.constant(name)
        if sum(list(node.input).count(name) for node in self._graph.node) <= 1:
            self._graph.initializer.remove(self._constants[name])
        return value

    def dequantized(self, name: str, integers: Array, scales: Array, **attributes: int) -> str:
        """Add integers and scales as constants, and a node that makes floats of them; return what it gives."""
        zeros = np.zeros(scales.shape, integers.dtype)
        for ending, value in (("quantized", integers), ("scale", scales), ("zero_point", zeros)):
            self._graph.initializer.append(onnx.numpy_helper.from_array(value, f"{name}_{ending}"))
        given = f"{name}_dequantized"
        inputs = [f"{name}_quantized", f"{name}_scale", f"{name}_zero_point"]
        node = onnx.helper.make_node("DequantizeLinear", inputs, [given])
        node.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in attributes.items())
        self._new.append(node)
        return given

    def put_first(self) -> None:
        """Put the new nodes before the others, as a graph is in the order of computation."""
        nodes = [*self._new, *self._graph.node]
        del self._graph.node[:]
        self._graph.node.extend(nodes)
