"""safetensors files (https://huggingface.co/docs/safetensors), written and hashed in one pass.

Not written by the library: its writer takes all bytes at once, and a second pass would be needed for SHA-256. Here the
bytes go from memory that is used again for the next checkpoint to the file and to the digest, a few megabytes at a
time; both let other threads run meanwhile. The library reads them.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from megabatch.trainer.errors import TrainingError

Tensors = dict[str, torch.Tensor]
Described = dict[str, Any]  # {"bytes": size, "sha256": digest}
_PIECE_BYTES = 1 << 22
_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip


def write_file(file: Path, pieces: Iterable[bytes | memoryview]) -> Described:
    """Write the pieces, wait until they are on the disk, and return size and SHA-256. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    with file.open("wb") as opened:
        for piece in pieces:
            opened.write(piece)
            digest.update(piece)
            size += len(piece)
        opened.flush()
        os.fsync(opened.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def describe_file(file: Path) -> Described:
    """Return size and SHA-256 of a file as it is."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while piece := opened.read(_PIECE_BYTES):
            digest.update(piece)
    return {"bytes": file.stat().st_size, "sha256": digest.hexdigest()}


def tensor_pieces(tensors: Mapping[str, torch.Tensor]) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a safetensors file with these tensors, which are on the CPU.

    Wider types come first: then every tensor begins at a multiple of its item size, as readers that map files want it.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name in names:
        tensor = tensors[name]
        end = begin + tensor.nbytes
        header[name] = {"dtype": _name(name, tensor), "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for name in names:
        content = tensors[name].detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
        for start in range(0, len(content), _PIECE_BYTES):
            yield content[start : start + _PIECE_BYTES]


def _name(name: str, tensor: torch.Tensor) -> str:
    if tensor.dtype not in _NAMES:
        raise TrainingError(
            f"{name} is of {tensor.dtype}, for which the format of checkpoints (safetensors) has no name"
        )
    return _NAMES[tensor.dtype]
