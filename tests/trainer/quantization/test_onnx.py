"""Quantized ONNX files: integers in them, what onnxruntime computes from them, and how large they are."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from megabatch.configs.quantization import Int8
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.export.card import Card
from megabatch.trainer.models.convnet import convnet
from megabatch.trainer.quantization import onnx_graphs
from megabatch.trainer.quantization.layers import make_plain, quantize_layers, quantized_layers
from megabatch.trainer.quantization.measure import predictor, session_of
from megabatch.trainer.quantization.ranges import StepRanges, ranges_of
from megabatch.trainer.quantization.weights import quantized

pytestmark = pytest.mark.filterwarnings("default")  # torch.onnx and onnxruntime warn of their own insides
CARD = Card(
    run="run", checkpoint="step-00000001", weights="raw", model={}, image_size=16, normalize={}, evaluation_transforms=[],
    target={}, outputs=5, names=(), trained_in="fp32", versions={},
)  # fmt: skip
IMAGES = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class Attention(nn.Module):
    """Linear layers over a sequence, which ONNX has as matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 32, 4, 4), nn.LayerNorm(32)
        self.inner, self.outer, self.head = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = tokens + self.outer(nn.functional.gelu(self.inner(self.norm(tokens))))
        logits: torch.Tensor = self.head(tokens.mean(dim=1))
        return logits


def prepared(network: nn.Module, settings: Int8 | None) -> nn.Module:
    """Return a network with batch-norm statistics, and bounds, of some images."""
    if settings is not None:
        quantize_layers(network, settings, 16)
    found = ranges_of(network)
    ranges = StepRanges(found)
    ranges.begin()
    network.train()(IMAGES)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight is not None
            with torch.no_grad():
                module.weight.uniform_(-0.5, 1.5)
    if found:
        ranges.finish(torch.cat(ranges.seen()).double() * 64, 64)
    return network.eval().requires_grad_(False)


def seeded(kind: type[nn.Module] | None = None) -> nn.Module:
    torch.manual_seed(0)
    return convnet(5, [16, 48]) if kind is None else kind()


def integers_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    return {
        one.name.removesuffix("_quantized"): numpy_helper.to_array(one)
        for one in model.graph.initializer if one.name.endswith("_quantized")
    }  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx") / "file.onnx"


@pytest.mark.parametrize(("kind", "keep"), [(None, ()), (None, ("0.0", "2.body.1.0")), (Attention, ())])
def test_a_network_trained_for_int8_is_written_with_its_integers_and_predicts_the_same(
    file: Path, kind: type[nn.Module] | None, keep: tuple[str, ...]
) -> None:
    network = prepared(seeded(kind), Int8(keep=keep))
    model = onnx_graphs.trained(network, CARD)
    onnx.checker.check_model(model, full_check=True)
    integers = integers_of(model)
    whole = {
        one.name for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT and len(one.dims) > 1
    }
    assert len(whole) == len(keep)
    weights = [array for array in integers.values() if array.dtype == np.int8]
    layers = quantized_layers(network)
    assert len(weights) == len(layers)
    expected = [quantized(layer.weight, Int8()).multipliers.numpy() for layer in layers.values()]
    for one, other in zip(weights, expected, strict=True):
        one = one if one.shape == other.shape else one.T
        assert np.array_equal(np.abs(one), np.abs(other)), "a batch norm turns signs, and nothing else"
    onnx.save(model, file)
    outputs, reference = predictor(session_of(file, 1))(IMAGES), network(IMAGES)
    unrounded = copy.deepcopy(network)
    make_plain(unrounded)
    for one_range in ranges_of(unrounded):
        one_range.bounds.zero_()
        one_range.forget()
    noise = (unrounded(IMAGES) - reference).abs().mean()
    assert (outputs - reference).abs().mean() < 0.3 * noise
    assert (outputs.argmax(1) == reference.argmax(1)).double().mean() >= 0.95


def test_kernels_of_8_bits_compute_all_of_a_network_of_convolutions(file: Path) -> None:
    onnx.save(onnx_graphs.trained(prepared(seeded(), Int8()), CARD), file)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(file.with_suffix(".optimized"))
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    assert kinds.count("QLinearConv") == 4
    assert kinds.count("QGemm") == 1
    assert not {"Conv", "Gemm", "Relu", "FusedConv"} & set(kinds)


@pytest.mark.parametrize(("bits", "most"), [(8, 0.02), (4, 0.3)])
def test_weights_alone_are_small_in_the_file_and_floats_again_in_the_computation(
    file: Path, bits: int, most: float
) -> None:
    network = prepared(seeded(), None)
    model = onnx_graphs.weights_only(network, CARD, {"0.0"}, bits)
    onnx.checker.check_model(model, full_check=True)
    integers = integers_of(model)
    assert list(integers) == ["1.0.weight", "2.body.0.0.weight", "2.body.1.0.weight", "6.weight"]
    assert {str(array.dtype) for array in integers.values()} == {f"int{bits}"}
    onnx.save(model, file)
    outputs, expected = predictor(session_of(file, 1))(IMAGES), network(IMAGES)
    assert 0 < (outputs - expected).abs().mean() < most * expected.abs().mean()
    parameters = sum(array.size for array in integers.values())
    assert (
        sum(one.ByteSize() for one in model.graph.initializer if "_quantized" in one.name) < parameters * bits / 8 + 400
    )


@pytest.mark.parametrize("kind", [None, Attention])
def test_onnxruntime_quantizes_with_the_ranges_of_samples(file: Path, kind: type[nn.Module] | None) -> None:
    network = prepared(seeded(kind), None)
    batches = onnx_graphs.images_of([IMAGES[:32], IMAGES[32:]])
    expected = network(IMAGES)
    kept = {"1.0"} if kind is None else {"inner"}
    for model in (onnx_graphs.static(network, CARD, kept, batches, "minmax"), onnx_graphs.dynamic(network, CARD, kept)):
        onnx.save(model, file)
        outputs = predictor(session_of(file, 1))(IMAGES)
        assert 0 < (outputs - expected).abs().mean() < 0.1 * expected.abs().mean()
        sizes = {one.dims[0] * one.dims[1] for one in model.graph.initializer
                 if one.data_type == onnx.TensorProto.FLOAT and len(one.dims) > 1}  # fmt: skip
        assert sizes == {16 * 48 if kind is None else 32 * 64}, "what is kept, and nothing else, is a matrix of floats"
        assert {one.key for one in model.metadata_props} == {"megabatch"}
        assert not any(node.metadata_props for node in model.graph.node)


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_histograms_are_made_of_any_number_of_samples(file: Path, method: str) -> None:
    network = prepared(seeded(None), None)
    batches = onnx_graphs.images_of([IMAGES[:20], IMAGES[20:40], IMAGES[40:45]])
    assert [len(batch) for batch in batches] == [15, 15, 15]
    assert np.array_equal(np.concatenate(batches), IMAGES[:45].numpy())
    onnx.save(onnx_graphs.static(network, CARD, set(), batches, method), file)
    expected = network(IMAGES)
    assert 0 < (predictor(session_of(file, 1))(IMAGES) - expected).abs().mean() < 0.5 * expected.abs().mean()


def test_a_network_of_which_nothing_is_left_to_quantize_is_refused() -> None:
    with pytest.raises(TrainingError, match="has no convolution and no matrix product with a weight left to quantize"):
        onnx_graphs.weights_only(seeded().eval(), CARD, {"0.0", "1.0", "2.body.0.0", "2.body.1.0", "6"}, 8)
