"""What every rank finds on its node, for `megabatch check --cluster`: facts only, the launcher judges them.

Nothing is trained. Every rank looks at its machine, computes for a moment, sums numbers with the others, reads and
decodes a few images, and tells; rank 0 writes all of it into one file.
"""

from __future__ import annotations

import json
import platform
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.data.arrangement import arrange
from megabatch.data.errors import DataError
from megabatch.data.requests import evaluation_requests
from megabatch.trainer.build import split_loader
from megabatch.trainer.process import write_json
from megabatch.trainer.provenance import versions
from megabatch.trainer.world import World

_IMAGES = 256  # read by each rank
_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 24}  # float32 that are summed over the ranks: 4 and 64 MiB
_SIZE = {"cpu": 512, "cuda": 4096}  # of the square matrices that are multiplied
_ROUNDS = 5


def tell(job: Job, world: World, run_dir: RunDir, request_file: Path) -> None:
    """Have all ranks look; rank 0 writes a list with the facts of each. `request_file` says whether to read data."""
    request = json.loads(request_file.read_text(encoding="utf-8"))
    facts = {
        "rank": world.rank, "host": world.host, "rank_of_node": world.rank_of_node, **versions(),
        "gloo_or_nccl": "nccl" if world.device.type == "cuda" else "gloo", **_machine(world, run_dir),
        **_shared_folder(world, run_dir), "clock_seconds": _clock(world), **_sums(world), **_computing(world),
        **(_images(job, world) if request["data"] else {}),
    }  # fmt: skip
    told = _of_all_ranks(json.dumps(facts), world)
    if world.is_main:
        write_json(run_dir.study_result, {"ranks": [json.loads(text) for text in told]})


def _machine(world: World, run_dir: RunDir) -> dict[str, Any]:
    found: dict[str, Any] = {
        "system": platform.platform(terse=True),
        "device": "cpu" if world.device.type == "cpu" else torch.cuda.get_device_name(world.device),
        "memory_free_bytes": _available_memory(),
        "disk_free_bytes": shutil.disk_usage(run_dir.root).free,
        "shared_memory_free_bytes": shutil.disk_usage("/dev/shm").free,  # noqa: S108  # NCCL writes there
    }
    if world.device.type == "cuda":
        found["device_free_bytes"], found["device_bytes"] = torch.cuda.mem_get_info(world.device)
    return found


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _shared_folder(world: World, run_dir: RunDir) -> dict[str, Any]:
    """Write a file beside the job on every rank, and look which of the others' are to be seen."""
    own = run_dir.root / f"seen-by-rank-{world.rank:05d}"
    error = ""
    try:
        own.write_text(str(world.rank), encoding="utf-8")
    except OSError as raised:
        error = str(raised.strerror)
    dist.barrier()
    seen = {file.name for file in run_dir.root.glob("seen-by-rank-*")}
    dist.barrier()
    with suppress(OSError):
        own.unlink()
    return {"cannot_write": error, "files_seen": len(seen)}


def _clock(world: World) -> float:
    """Return by how many seconds this clock is before that of rank 0, to a few milliseconds."""
    dist.barrier()
    now = time.time()
    clocks = torch.zeros(world.num_ranks, dtype=torch.float64, device=world.device)
    clocks[world.rank] = now
    dist.all_reduce(clocks)
    return now - float(clocks[0])


def _sums(world: World) -> dict[str, Any]:
    """Sum numbers whose sum is known, and tell the gigabytes a second that each rank sent (NCCL's "bus bandwidth")."""
    elements = _ELEMENTS[world.device.type]
    own = torch.arange(elements, dtype=torch.float32, device=world.device) % 1024 + world.rank
    expected = (own - world.rank) * world.num_ranks + sum(range(world.num_ranks))
    seconds = []
    right = True
    for _ in range(_ROUNDS):
        total = own.clone()
        _wait_for(world)
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(total)
        _wait_for(world)
        seconds.append(time.perf_counter() - began)
        right &= bool(torch.equal(total, expected))
    sent = 2 * (world.num_ranks - 1) / world.num_ranks * 4 * elements
    return {"sums_are_right": right, "sent_bytes_per_second": sent / min(seconds)}


def _computing(world: World) -> dict[str, float]:
    """Return the operations a second of a product of matrices, the best of some rounds."""
    size = _SIZE[world.device.type]
    left = torch.ones(size, size, device=world.device)
    seconds = []
    for _ in range(_ROUNDS):
        _wait_for(world)
        began = time.perf_counter()
        torch.mm(left, left)
        _wait_for(world)
        seconds.append(time.perf_counter() - began)
    return {"operations_per_second": 2 * size**3 / min(seconds)}


def _wait_for(world: World) -> None:
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)


def _images(job: Job, world: World) -> dict[str, Any]:
    """Read and decode some images of the training split, other ones on every rank."""
    data = job.recipe.data
    try:
        arrangement = arrange(job)
        if data.train_split not in arrangement.parts:
            return {}  # a stream: to look at it would run its command
        sample_ids = arrangement.sample_ids(data.train_split)
        first = world.rank * _IMAGES % len(sample_ids)
        chosen = np.roll(sample_ids, -first)[:_IMAGES]
        reader = arrangement.reader(data.train_split)
        loader = split_loader(job, arrangement, reader, data.train_transforms, job.cluster.loader_threads)
        began = time.perf_counter()
        for _ in loader.load(evaluation_requests(len(chosen), 32, rank=0, num_ranks=1, chosen=chosen)):
            pass
    except (DataError, OSError) as error:
        return {"data_error": str(error)}
    return {"images_per_second": len(chosen) / (time.perf_counter() - began)}


def _of_all_ranks(text: str, world: World) -> list[str]:
    """Return what every rank has, in their order; through the store, which takes text of any length."""
    store = dist.distributed_c10d._get_default_store()
    store.set(f"megabatch/check/{world.rank}", text)
    told = [store.get(f"megabatch/check/{rank}").decode() for rank in range(world.num_ranks)]
    dist.barrier()  # rank 0 has the store: it must not leave before all have read
    return told
