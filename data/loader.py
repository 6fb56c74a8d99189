"""Positions to micro-batches of uint8 pixels, prefetched by threads. Its whole state is a position.

Threads, not processes: decoding and resizing release the interpreter lock, and a thread hands over a batch without
copying it (docs/decisions/0004-threads.md has the measurement). The result does not depend on their number.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from megabatch.data.augment.chain import SampleTransform
from megabatch.data.buffers import BufferPool
from megabatch.data.decode import Pixels
from megabatch.data.errors import DataError, SampleError, SkippedSample
from megabatch.data.hashing import AUGMENT, RandomStream, key
from megabatch.data.read import EncodedSample, Reader
from megabatch.data.requests import Request

_FILLER_SAMPLES = 2  # batch norm needs two values per channel
_LEAST_PREFETCH = 2  # micro-batches loaded ahead, before anybody had to wait
_MOST_PREFETCHED_BYTES = 1 << 30
_MOST_PREFETCH = 64
_SECONDS_TO_LEAVE = 10.0  # for threads to end what they are at; one that hangs is left behind
_REQUESTS_KNOWN_AHEAD = 32  # so that a shard from elsewhere is there when its first sample is asked for


@dataclass(frozen=True)
class MicroBatch:
    """Pixels (uint8, shape (micro_batch, size, size, 3)), labels (int64) and weights (float32) of one request.

    Where the target is no class, `labels_N` has rows of numbers instead: float32, shape (micro_batch, outputs).
    A weight is 1, or 0 for a sample that could not be loaded; such a sample has the pixels of another one, so that
    batch norm sees nothing strange, and stands in `skipped`.
    """

    request: Request
    images_NHWC: torch.Tensor
    labels_N: torch.Tensor
    weights_N: torch.Tensor
    skipped: tuple[SkippedSample, ...] = ()

    @property
    def is_filler(self) -> bool:
        """Return whether this is no data at all: a rank without a micro-batch takes part with weight 0."""
        return len(self.request.sample_ids) == 0

    @property
    def all_count(self) -> bool:
        """Return whether every weight is 1."""
        return not self.skipped and len(self.request.sample_ids) > 0


@dataclass(frozen=True)
class _Pending:
    micro_batch: MicroBatch
    parts: list[Future[list[tuple[int, SkippedSample]]]]

    @property
    def done(self) -> bool:
        return all(part.done() for part in self.parts)


@dataclass(frozen=True)
class Loader:
    """Reads, decodes and transforms the samples of one split with `threads` threads.

    It loads as many micro-batches ahead as turn out to be needed: one more each time one was asked for before it was
    ready, up to `prefetch`, or to what takes 1 GiB. With `skip_errors` a sample that cannot be used gets weight 0;
    without, it ends the loading. `outputs` is how many numbers a target has that is no class. `timeout_seconds` is how
    long to wait for a micro-batch at most.
    """

    reader: Reader
    transform: SampleTransform
    image_size: int
    num_classes: int
    seed: int
    threads: int
    skip_errors: bool = False
    prefetch: int = _MOST_PREFETCH
    buffers: BufferPool = field(default_factory=BufferPool)
    outputs: int | None = None
    timeout_seconds: float | None = None
    _at_work: dict[int, EncodedSample | int] = field(default_factory=dict)  # by thread; its id, until it is read

    def load(self, requests: Iterable[Request]) -> Generator[MicroBatch]:
        """Yield the micro-batches in the order of the requests.

        Raises DataError naming shard and sample, and TimeoutError naming what a thread hangs at.
        """
        to_do = self._prefetched(requests)
        pending: deque[_Pending] = deque()
        ahead = min(_LEAST_PREFETCH, self.prefetch)
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="megabatch-loader")
        try:
            while True:
                pending.extend(self._start(request, pool) for request in islice(to_do, ahead + 1 - len(pending)))
                if not pending:
                    return
                oldest = pending[0]
                if not oldest.done:
                    ahead = max(ahead, min(ahead + 1, self._most_ahead(oldest.micro_batch)))
                    if wait(oldest.parts, self.timeout_seconds).not_done:
                        raise TimeoutError(self._what_hangs())
                micro_batch = _finished(oldest)
                pending.popleft()
                yield micro_batch
        finally:
            _leave(pool, pending)

    def _what_hangs(self) -> str:
        frames = sys._current_frames()
        found = []
        for thread, work in list(self._at_work.items()):
            code = frames[thread].f_code if thread in frames else None
            place = f" in {code.co_qualname} ({code.co_filename}:{frames[thread].f_lineno})" if code else ""
            found.append(f"{f'sample {work}' if isinstance(work, int) else work.where}{place}")
        return (
            f"{'; '.join(found)}: not loaded within {self.timeout_seconds:g} s, which is four fifths of "
            "cluster.limits.collective_timeout_seconds. Does the disk or the file server answer?"
        )

    def _prefetched(self, requests: Iterable[Request]) -> Iterator[Request]:
        """Yield the requests, while the reader begins to load what later ones need from elsewhere."""
        if not self.reader.is_remote:
            yield from requests
            return
        upcoming: deque[Request] = deque()
        for request in requests:
            upcoming.append(request)
            if len(upcoming) > _REQUESTS_KNOWN_AHEAD:
                self.reader.prefetch(np.concatenate([later.sample_ids for later in upcoming]).tolist())
                yield upcoming.popleft()
        yield from upcoming

    def _most_ahead(self, micro_batch: MicroBatch) -> int:
        return min(self.prefetch, _MOST_PREFETCHED_BYTES // micro_batch.images_NHWC.nbytes)

    def _start(self, request: Request, pool: ThreadPoolExecutor) -> _Pending:
        count = len(request.sample_ids)
        shape = (max(count, _FILLER_SAMPLES if count == 0 else 1), self.image_size, self.image_size, 3)
        if count == 0:
            images, labels = torch.zeros(shape, dtype=torch.uint8), self._labels(shape[0]).zero_()
            return _Pending(MicroBatch(request, images, labels, torch.zeros(shape[0])), [])
        images, labels = self.buffers.empty(shape), self._labels(count)
        micro_batch = MicroBatch(request, images, labels, torch.ones(count))
        share = -(-count // self.threads)
        parts = [range(first, min(first + share, count)) for first in range(0, count, share)]
        return _Pending(micro_batch, [pool.submit(self._fill, micro_batch, part) for part in parts])

    def _labels(self, count: int) -> torch.Tensor:
        if self.outputs is None:
            return torch.empty(count, dtype=torch.int64)
        return torch.empty((count, self.outputs), dtype=torch.float32)

    def _fill(self, micro_batch: MicroBatch, rows: range) -> list[tuple[int, SkippedSample]]:
        skipped = []
        images_NHWC, labels_N = micro_batch.images_NHWC.numpy(), micro_batch.labels_N.numpy()
        for row in rows:
            try:
                labels_N[row] = self._sample(micro_batch.request, row, images_NHWC[row])
            except SampleError as error:
                if not self.skip_errors:
                    raise
                skipped.append((row, error.sample))
            except Exception as error:  # no fault of the data that we know: with the place where it happened
                work = self._at_work.get(threading.get_ident())
                error.add_note(f"at {work.where if isinstance(work, EncodedSample) else f'sample {work}'}")
                raise
        self._at_work.pop(threading.get_ident(), None)
        return skipped

    def _sample(self, request: Request, row: int, out_HWC: Pixels) -> int | NDArray[np.float32]:
        """Write the pixels of one sample and return its label, or the numbers it has instead. Raises SampleError."""
        sample_id = int(request.sample_ids[row])
        thread = threading.get_ident()
        self._at_work[thread] = sample_id
        sample = self._at_work[thread] = self._read(sample_id)
        if sample.values is None and not 0 <= sample.label < self.num_classes:
            message = f"{sample.where}: label {sample.label} is outside the {self.num_classes} classes"
            raise SampleError(SkippedSample("label", sample.shard, sample.key, sample_id, message))
        stream = RandomStream(key(self.seed, request.epoch, AUGMENT, sample_id, int(request.occurrences[row])))
        try:
            self.transform(sample.image, stream, out_HWC)
        except ValueError as error:
            folder = sample.shard.rpartition("/")[0] or "."
            message = f"{sample.where}: {error}. `megabatch data verify --decode {folder}` lists all such"
            raise SampleError(SkippedSample("image", sample.shard, sample.key, sample_id, message)) from error
        return sample.label if sample.values is None else sample.values

    def _read(self, sample_id: int) -> EncodedSample:
        try:
            return self.reader.read(sample_id)
        except SampleError as error:  # its reader may be one of several, with ids of its own
            raise SampleError(error.sample._replace(sample_id=sample_id)) from None
        except DataError as error:
            raise SampleError(SkippedSample("shard", "", "", sample_id, str(error))) from error


def _leave(pool: ThreadPoolExecutor, pending: Iterable[_Pending]) -> None:
    """Let the threads end, but wait for none that hangs."""
    pool.shutdown(wait=False, cancel_futures=True)
    begun = [part for micro_batch in pending for part in micro_batch.parts if not part.cancelled()]
    if not wait(begun, _SECONDS_TO_LEAVE).not_done:
        pool.shutdown(wait=True)


def _finished(pending: _Pending) -> MicroBatch:
    """Wait for the samples; those that could not be loaded get weight 0, and pixels and label of the first good one.

    The label too, because mixup mixes a sample with its neighbour, whatever its weight.
    """
    skipped = [entry for part in pending.parts for entry in part.result()]
    micro_batch = pending.micro_batch
    if not skipped:
        return micro_batch
    images, labels, weights = micro_batch.images_NHWC, micro_batch.labels_N, micro_batch.weights_N
    rows = torch.tensor([row for row, _ in skipped])
    weights[rows] = 0.0
    if weights.any():
        good = int(weights.argmax())
        images[rows], labels[rows] = images[good].clone(), labels[good].clone()
    else:
        images.zero_()
        labels.zero_()
    return replace(micro_batch, skipped=tuple(sample for _, sample in skipped))
