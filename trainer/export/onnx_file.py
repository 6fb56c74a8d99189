"""One ONNX file, the card in its metadata_props; read back by onnxruntime. Input `images`, output `outputs`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from megabatch.trainer.errors import TrainingError, first_line
from megabatch.trainer.export.card import KEY, Card
from megabatch.trainer.export.exported_program import captured
from megabatch.trainer.export.formats import Predict

if TYPE_CHECKING:
    import onnx
    import onnxruntime

SUFFIX = ".onnx"
_MOST_BYTES = 2_000_000_000  # a protobuf file ends at 2 GiB


def refuse(card: Card) -> None:
    """Refuse nothing beforehand: which operators a network has shows only when it is captured."""


def write(network: nn.Module, card: Card, target: Path) -> None:
    """Write the graph. Raises TrainingError as `translated` does."""
    program = _program(network, card)
    program.model.metadata_props[KEY] = card.to_json()
    program.save(str(target), external_data=False)


def translated(network: nn.Module, card: Card, opset: int | None = None) -> onnx.ModelProto:
    """Return the graph in memory. Raises TrainingError for what ONNX has no operator for, and for its size."""
    proto: onnx.ModelProto = _program(network, card, opset).model_proto
    return proto


def _program(network: nn.Module, card: Card, opset: int | None = None) -> torch.onnx.ONNXProgram:
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    if size > _MOST_BYTES:
        raise TrainingError(
            f"an ONNX file can have 2 GiB, and these weights are {size:,} bytes. Instead: --format exported-program"
        )
    graph = captured(network, card)
    try:
        program = torch.onnx.export(
            graph, dynamo=True, input_names=["images"], output_names=["outputs"], external_data=False, verbose=False,
            opset_version=opset,
        )  # fmt: skip
        assert program is not None
    except Exception as error:  # the exporter tells of missing operators in exceptions of many kinds
        raise TrainingError(
            f"this network cannot be written as ONNX: {first_line(error)}. Instead: --format exported-program"
        ) from error
    return program


def read(target: Path) -> Predict:
    """Return onnxruntime's prediction on the CPU."""
    import onnxruntime

    return predictor(onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"]))


def predictor(session: onnxruntime.InferenceSession) -> Predict:
    """Return what leads from images_NCHW to outputs_NK."""

    def predict(images_NCHW: torch.Tensor) -> torch.Tensor:
        (outputs_NK,) = session.run(None, {"images": images_NCHW.numpy()})
        return torch.from_numpy(outputs_NK)

    return predict
