"""Positions to micro-batches of uint8 pixels, prefetched by threads. Its whole state is a position.

Threads, not processes: decoding and resizing release the interpreter lock, and a thread hands over a batch without
copying it (docs/decisions/0004-threads.md has the measurement). The result does not depend on their number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from megabatch.data.augment.chain import ImageTransform
from megabatch.data.decode import decode_image
from megabatch.data.errors import DataError
from megabatch.data.hashing import RandomStream, key
from megabatch.data.read import SplitReader
from megabatch.data.requests import Request

_AUGMENT = 3  # what a key is for; data/order.py has 1 and 2
_OCCURRENCE = 0  # every sample comes once an epoch
_FILLER_SAMPLES = 2  # batch norm needs two values per channel


@dataclass(frozen=True)
class MicroBatch:
    """Pixels (uint8, shape (micro_batch, size, size, 3)) and labels (int64) of one request."""

    request: Request
    images_NHWC: torch.Tensor
    labels_N: torch.Tensor

    @property
    def is_filler(self) -> bool:
        """Return whether this is no data at all: a rank without a micro-batch takes part with weight 0."""
        return len(self.request.sample_ids) == 0


@dataclass(frozen=True)
class Loader:
    """Reads, decodes and transforms the samples of one split with `threads` threads, `prefetch` micro-batches ahead."""

    reader: SplitReader
    transform: ImageTransform
    image_size: int
    num_classes: int
    max_image_pixels: int
    seed: int
    threads: int
    prefetch: int = 4

    def load(self, requests: Iterable[Request]) -> Iterator[MicroBatch]:
        """Yield the micro-batches in the order of the requests. Raises DataError naming shard and sample."""
        pending: deque[tuple[MicroBatch, list[Future[None]]]] = deque()
        with ThreadPoolExecutor(self.threads, thread_name_prefix="megabatch-loader") as pool:
            try:
                for request in requests:
                    pending.append(self._start(request, pool.submit))
                    if len(pending) > self.prefetch:
                        yield _finished(pending.popleft())
                while pending:
                    yield _finished(pending.popleft())
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _start(self, request: Request, submit: Callable[..., Future[None]]) -> tuple[MicroBatch, list[Future[None]]]:
        count = len(request.sample_ids)
        size = self.image_size
        if count == 0:
            zeros = torch.zeros(_FILLER_SAMPLES, size, size, 3, dtype=torch.uint8)
            return MicroBatch(request, zeros, torch.zeros(_FILLER_SAMPLES, dtype=torch.int64)), []
        images = torch.empty(count, size, size, 3, dtype=torch.uint8)
        micro_batch = MicroBatch(request, images, torch.empty(count, dtype=torch.int64))
        share = -(-count // self.threads)
        parts = [range(first, min(first + share, count)) for first in range(0, count, share)]
        return micro_batch, [submit(self._fill, micro_batch, part) for part in parts]

    def _fill(self, micro_batch: MicroBatch, rows: range) -> None:
        images, labels = micro_batch.images_NHWC.numpy(), micro_batch.labels_N.numpy()
        for row in rows:
            sample_id = int(micro_batch.request.sample_ids[row])
            images[row], labels[row] = self._sample(sample_id, micro_batch.request.epoch)

    def _sample(self, sample_id: int, epoch: int) -> tuple[NDArray[np.uint8], int]:
        sample = self.reader.read(sample_id)
        where = f"{sample.shard}: sample {sample.key}"
        if not 0 <= sample.label < self.num_classes:
            raise DataError(f"{where}: label {sample.label} is outside the {self.num_classes} classes")
        try:
            image = decode_image(sample.image, self.max_image_pixels)
            stream = RandomStream(key(self.seed, epoch, _AUGMENT, sample_id, _OCCURRENCE))
            return self.transform(image, stream), sample.label
        except ValueError as error:
            raise DataError(
                f"{where}: {error}. `megabatch data verify --decode {self.reader.folder}` lists all such"
            ) from error


def _finished(pending: tuple[MicroBatch, list[Future[None]]]) -> MicroBatch:
    micro_batch, futures = pending
    for future in futures:
        future.result()
    return micro_batch
