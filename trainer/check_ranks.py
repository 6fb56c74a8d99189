"""What every rank finds on its node: facts only, configs/node_facts.py judges them.

For `megabatch check --cluster` every rank looks at its machine, computes for a moment, sums numbers with the others,
reads and decodes a few images, and tells; rank 0 writes all of it into one file. Before a training they look at what
takes no time (start_check.py).
"""

from __future__ import annotations

import hashlib
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
from megabatch.configs.new_file import write_new
from megabatch.configs.run_dir import RunDir
from megabatch.data.arrangement import arrange
from megabatch.data.errors import DataError
from megabatch.data.requests import evaluation_requests
from megabatch.trainer.gathered import gathered_json
from megabatch.trainer.loaders import split_loader
from megabatch.trainer.process import write_json
from megabatch.trainer.provenance import versions
from megabatch.trainer.world import World

_IMAGES = 256  # read by each rank
_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 24}  # float32 that are summed over the ranks: 4 and 64 MiB
_SIZE = {"cpu": 512, "cuda": 4096}  # of the square matrices that are multiplied
_ROUNDS = 5
_SECONDS_TO_BE_SEEN = 10.0  # what another host has written
_POLL_SECONDS = 0.05


def tell(job: Job, world: World, run_dir: RunDir, request_file: Path) -> None:
    """Have all ranks look; rank 0 writes a list with the facts of each. `request_file` says whether to read data."""
    request = json.loads(request_file.read_text(encoding="utf-8"))
    facts = {**facts_of(world, run_dir, _ROUNDS), **speed_of(world, _ROUNDS)}
    if request["data"]:
        facts |= _images(job, world)
    told = gathered_json(facts, world.num_ranks)
    if world.is_main:
        write_json(run_dir.study_result, {"ranks": told})


def facts_of(world: World, run_dir: RunDir, rounds: int) -> dict[str, Any]:
    """Return what takes no time to find out; sums are made `rounds` times. All ranks look together."""
    return {
        "rank": world.rank, "host": world.host, "rank_of_node": world.rank_of_node, **versions(),
        "job": hashlib.sha256(run_dir.job.read_bytes()).hexdigest(),
        "gloo_or_nccl": "nccl" if world.device.type == "cuda" else "gloo", **_machine(world, run_dir),
        **_shared_folder(world, run_dir), "clock_seconds": _clock(world), **_sums(world, rounds),
    }  # fmt: skip


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
    """Write a file beside the job on every rank. Rank 0 looks for those of all, the others for that of rank 0."""
    own, error = _file_of(world.rank, run_dir), ""
    try:
        write_new(own, str(world.rank))
    except OSError as raised:
        error = str(raised.strerror)
    dist.barrier()
    unseen = list(range(1, world.num_ranks)) if world.is_main else [0]
    deadline = time.monotonic() + _SECONDS_TO_BE_SEEN
    while unseen := [rank for rank in unseen if not _file_of(rank, run_dir).exists()]:
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL_SECONDS)
    dist.barrier()
    with suppress(OSError):
        own.unlink()
    return {"cannot_write": error, "unseen": unseen}


def _file_of(rank: int, run_dir: RunDir) -> Path:
    return run_dir.root / f".seen-by-rank-{rank:05d}"


def _clock(world: World) -> float:
    """Return by how many seconds this clock is before that of rank 0, to a few milliseconds."""
    dist.barrier()
    now = time.time()
    clocks = torch.zeros(world.num_ranks, dtype=torch.float64, device=world.device)
    clocks[world.rank] = now
    dist.all_reduce(clocks)
    return now - float(clocks[0])


def _sums(world: World, rounds: int) -> dict[str, Any]:
    """Sum numbers whose sum is known, and tell the gigabytes a second that each rank sent (NCCL's "bus bandwidth")."""
    elements = _ELEMENTS[world.device.type]
    own = torch.arange(elements, dtype=torch.float32, device=world.device) % 1024 + world.rank
    expected = (own - world.rank) * world.num_ranks + sum(range(world.num_ranks))
    seconds = []
    right = True
    for _ in range(rounds):
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


def speed_of(world: World, rounds: int) -> dict[str, float]:
    """Return the operations a second of a product of matrices, the best of some rounds."""
    size = _SIZE[world.device.type]
    left = torch.ones(size, size, device=world.device)
    seconds = []
    for _ in range(rounds):
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
