"""How many images a second a micro-batch of each size gives, and whether it fits into memory.

A probe takes real training steps of two micro-batches each, on random pixels, so that the gradient of the first one
lies in memory during the second: a step with accumulation needs the most. On the CPU the process may not grow beyond
what the launcher allows (RLIMIT_DATA), so an attempt that is too large fails here and never takes the machine's memory.
"""

from __future__ import annotations

import json
import resource
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megabatch.configs.targets import ClassTarget, Target
from megabatch.data.loader import MicroBatch
from megabatch.data.requests import Request
from megabatch.trainer.build import Parts
from megabatch.trainer.causes import is_out_of_memory
from megabatch.trainer.step import take_step

_MICRO_BATCHES = 2
_LEAST_STEPS = 2


def probe(parts: Parts, sizes: list[int], seconds: float, memory_limit: int | None) -> dict[str, Any]:
    """Try the sizes, smallest first, until one does not fit. A line before and after each goes to RUN_DIR/probes.jsonl.

    The line before tells which size it was if the process is killed. `memory_limit` is in bytes: on the CPU what the
    process may grow by, on a GPU what it may use there.
    """
    device = parts.world.device
    outputs = _outputs(parts)
    limit_memory(device, memory_limit)
    with parts.run_dir.probes.open("a", encoding="utf-8") as lines:
        for size in sizes:
            _tell(lines, {"micro_batch": size, "outcome": "started"})
            found = _try(parts, size, outputs, seconds)
            _tell(lines, {"micro_batch": size, **found})
            if found["outcome"] != "fits" or parts.step_parts.stop_requested():
                break
    return {"stopped": parts.step_parts.stop_requested()}


def limit_memory(device: torch.device, limit: int | None) -> None:
    """Keep this process from taking more than `limit` bytes beyond what it has now."""
    if limit is None:
        return
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_status_bytes("VmData") + limit, hard))


def _outputs(parts: Parts) -> int:
    """Return the outputs of the network, from one pass without gradients."""
    size = parts.job.recipe.data.image_size
    network = parts.step_parts.engine.network
    images_NHWC = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    network.eval()
    with torch.no_grad(), parts.step_parts.precision.autocast():
        return int(network(parts.step_parts.normalize(images_NHWC)).shape[1])


def _try(parts: Parts, size: int, outputs: int, seconds: float) -> dict[str, Any]:
    try:
        data = parts.job.recipe.data
        micro_batches = synthetic(size, data.image_size, outputs, data.target)
        step_seconds = _step_seconds(parts, micro_batches, seconds)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return {"outcome": "out of memory"}
    rate = _MICRO_BATCHES * size / step_seconds
    return {"outcome": "fits", "images_per_second": rate, "peak_bytes": _peak_bytes(parts.world.device)}


def _step_seconds(parts: Parts, micro_batches: Iterator[MicroBatch], seconds: float) -> float:
    """Return the median time of a step, after one that is not counted, over at least `seconds`."""
    _timed_step(parts, micro_batches)
    times: list[float] = []
    while len(times) < _LEAST_STEPS or (sum(times) < seconds and not parts.step_parts.stop_requested()):
        times.append(_timed_step(parts, micro_batches))
    return statistics.median(times)


def _timed_step(parts: Parts, micro_batches: Iterator[MicroBatch]) -> float:
    started = time.perf_counter()
    take_step(parts.step_parts, micro_batches, learning_rate=0.0, state=parts.state)
    if parts.world.device.type == "cuda":
        torch.cuda.synchronize(parts.world.device)  # the update is still under way when the step returns
    return time.perf_counter() - started


def synthetic(size: int, image_size: int, outputs: int, target: Target) -> Iterator[MicroBatch]:
    """Yield micro-batches of `size` random images, two a step, without end."""
    generator = torch.Generator().manual_seed(0)
    shape = (size, image_size, image_size, 3)
    images_NHWC = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels_N = torch.arange(size) % outputs if isinstance(target, ClassTarget) else torch.zeros(size, outputs)
    weights_N = torch.ones(size)
    ids = np.arange(size, dtype=np.int64)
    step = 0
    while True:
        for number in range(_MICRO_BATCHES):
            last = number == _MICRO_BATCHES - 1
            request = Request(step, 0, number, ids, np.zeros_like(ids), _MICRO_BATCHES * size, last)
            yield MicroBatch(request, images_NHWC, labels_N, weights_N)
        step += 1


def _peak_bytes(device: torch.device) -> int:
    """Return the most memory so far: of this process on the GPU, or of the process itself."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return _status_bytes("VmHWM")


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"Linux tells {name}")


def _tell(lines: Any, values: dict[str, Any]) -> None:  # Any: a text file
    lines.write(json.dumps(values) + "\n")
    lines.flush()
