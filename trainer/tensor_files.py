"""safetensors files (https://huggingface.co/docs/safetensors), written and hashed in one pass.

Not written by the library: its writer takes all bytes at once, and a second pass would be needed for SHA-256. Here the
bytes go from memory that is used again for the next checkpoint to the file and to the digest, a few megabytes at a
time; both let other threads run meanwhile. The library reads them.

Where tensors are shared out among ranks, each rank writes a file of its own. Where its parts begin stands in the file's
metadata as torch.distributed.checkpoint (DCP) writes it, whose HuggingFaceStorageReader reads these files too
(docs/decisions/0008-sharded-checkpoints.md).
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from megabatch.trainer.errors import TrainingError
from megabatch.trainer.sharding import Offsets, Region, Tensors, region_here, shared_out_like

Described = dict[str, Any]  # {"bytes": size, "sha256": digest}
_SHARDING, _OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"  # metadata of a file with parts of tensors
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


def tensor_pieces(tensors: Mapping[str, torch.Tensor], offsets: Offsets | None = None) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a safetensors file with these tensors, which are on the CPU.

    `offsets`, where given, says where those tensors begin that are parts of larger ones.

    Wider types come first: then every tensor begins at a multiple of its item size, as readers that map files want it.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **_sharding(tensors, offsets)}}
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


def _sharding(tensors: Mapping[str, torch.Tensor], offsets: Offsets | None) -> dict[str, str]:
    if offsets is None:
        return {}
    begins = {name: {_OFFSETS: offsets.get(name, (0,) * tensor.dim())} for name, tensor in tensors.items()}
    return {_SHARDING: json.dumps(begins)}


def _name(name: str, tensor: torch.Tensor) -> str:
    if tensor.dtype not in _NAMES:
        raise TrainingError(
            f"{name} is of {tensor.dtype}, for which the format of checkpoints (safetensors) has no name"
        )
    return _NAMES[tensor.dtype]


def read_tensors(files: Sequence[Path], like: Callable[[str], torch.Tensor | None] = lambda name: None) -> Tensors:
    """Return the tensors of the files by name, put together from their parts.

    A tensor for which `like` returns one that is shared out among ranks is read and shared out like that: only the
    part that belongs here is read. All others are whole, on the CPU.
    """
    with ExitStack() as stack:
        parts: dict[str, list[_Part]] = {}
        for file in files:
            opened = stack.enter_context(safe_open(file, framework="pt"))
            for part in _parts_in(opened):
                parts.setdefault(part.name, []).append(part)
        return {name: _put_together(found, like(name)) for name, found in parts.items()}


class _Part(NamedTuple):
    name: str
    region: Region
    opened: Any  # the library's open file

    def read(self, within: Region) -> tuple[tuple[slice, ...], torch.Tensor] | None:
        """Return what this part has of a region and where it belongs in it, or None if it has nothing of it."""
        begins = [max(pair) for pair in zip(self.region.offsets, within.offsets, strict=True)]
        ends = [min(pair) for pair in zip(_ends(self.region), _ends(within), strict=True)]
        if any(begin >= end for begin, end in zip(begins, ends, strict=True)):
            return None
        here, there = (
            tuple(slice(b - o, e - o) for b, e, o in zip(begins, ends, region.offsets, strict=True))
            for region in (self.region, within)
        )
        return there, self.opened.get_slice(self.name)[here]


def _parts_in(opened: Any) -> Iterator[_Part]:
    sharding = json.loads((opened.metadata() or {}).get(_SHARDING, "{}"))
    for name in opened.keys():  # noqa: SIM118  # no dict
        shape = tuple(opened.get_slice(name).get_shape())
        offsets = tuple(sharding[name][_OFFSETS]) if name in sharding else (0,) * len(shape)
        yield _Part(name, Region(offsets, shape), opened)


def _put_together(parts: list[_Part], target: torch.Tensor | None) -> torch.Tensor:
    shape = tuple(max(ends) for ends in zip(*(_ends(part.region) for part in parts), strict=True))
    wanted = region_here(target) if target is not None and tuple(target.shape) == shape else None
    if wanted is None and len(parts) == 1:
        whole: torch.Tensor = parts[0].opened.get_tensor(parts[0].name)
        return whole
    region = wanted or Region((0,) * len(shape), shape)
    read = [found for part in parts if (found := part.read(region)) is not None]
    dtype = read[0][1].dtype if read else parts[0].opened.get_tensor(parts[0].name).dtype
    tensor = torch.empty(region.shape, dtype=dtype)
    for place, values in read:
        tensor[place] = values
    return tensor if wanted is None else shared_out_like(tensor, target)


def _ends(region: Region) -> tuple[int, ...]:
    return tuple(offset + length for offset, length in zip(region.offsets, region.shape, strict=True))
