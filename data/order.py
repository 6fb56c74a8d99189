"""The global order of samples: (seed, epoch, position) -> sample. No input or output, no torch, no state.

An epoch is laid out in four moves. Twelve samples in four shards, two streams, blocks of two, windows of two shards:

    shards as written        A = 0 1 2   B = 3 4 5   C = 6 7 8   D = 9 10 11
    1. permute the shards    C 6 7 8 | A 0 1 2 | D 9 10 11 | B 3 4 5          one line of samples
    2. cut it into streams   stream 0: C A            stream 1: D B
    3. shuffle in windows    stream 0: 1 7 0 6 8 2    stream 1: 10 4 3 9 11 5  (a window is two shards here)
    4. read blocks in turn   1 7 | 10 4 | 0 6 | 3 9 | 8 2 | 11 5               stream 0, 1, 0, 1, ...

So a rank that reads every second block keeps to one stream, and so to half of the shards; yet the order is the same
for any number of ranks, and any position can be computed without those before it. Every sample comes exactly once:
the streams are cut so that each is as long as the blocks that read from it.

Sample ids count the samples of a split through its shards in the order of dataset.json.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from megabatch.data.draws import Draws
from megabatch.data.hashing import key, permutation

_SHARDS, _WINDOW = 1, 2  # what a key is for
_WINDOWS_KEPT = 1024
_EPOCHS_KEPT = 2  # the order of a mixture may cross from one epoch of a source to the next


@dataclass(frozen=True, eq=False)
class Layout:
    """What an order is a function of, besides epoch and position; and with that the plain order itself.

    `shard_samples` has the number of samples of each shard; give an array where there are very many.
    """

    shard_samples: Sequence[int] | NDArray[np.int64]
    seed: int
    streams: int
    window_shards: int
    block_samples: int

    @cached_property
    def samples(self) -> int:
        """Return the number of samples in an epoch."""
        return int(self.shard_starts[-1])

    @cached_property
    def shard_starts(self) -> NDArray[np.int64]:
        """Return the id of the first sample of each shard, and the total: shape (shards + 1,)."""
        return starts(np.asarray(self.shard_samples, dtype=np.int64))

    @cached_property
    def stream_starts(self) -> NDArray[np.int64]:
        """Return where each stream begins on the line: shape (streams + 1,).

        Stream c is read by blocks c, c + streams, c + 2 * streams, ...; only the last block of all may be short.
        """
        blocks = -(-self.samples // self.block_samples)
        blocks_of_stream = (blocks - np.arange(self.streams) + self.streams - 1) // self.streams
        lengths = np.maximum(blocks_of_stream, 0) * self.block_samples
        if blocks:
            lengths[(blocks - 1) % self.streams] -= blocks * self.block_samples - self.samples
        return starts(lengths)

    def draws(self, epoch: int, start: int, stop: int) -> Draws:
        """Return every sample once an epoch: the draws at positions start to stop."""
        sample_ids = self._opened(epoch).samples(start, stop)
        return Draws(sample_ids, np.zeros(len(sample_ids), dtype=np.int64))

    @cached_property
    def _opened(self) -> Callable[[int], EpochOrder]:
        return lru_cache(_EPOCHS_KEPT)(partial(EpochOrder, self))


def starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each of several things laid end to end begins, and where the last ends: shape (lengths + 1,)."""
    result = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=result[1:])
    return result


class EpochOrder:
    """The order of one epoch. Opening it permutes the shards; after that any position costs the same.

    >>> layout = Layout(shard_samples=(3, 3, 3, 3), seed=0, streams=2, window_shards=2, block_samples=2)
    >>> sorted(EpochOrder(layout, epoch=0).samples(0, 12).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    """

    def __init__(self, layout: Layout, epoch: int):
        self.layout = layout
        self.epoch = epoch
        self._shards = permutation(key(layout.seed, epoch, _SHARDS), len(layout.shard_samples)).astype(np.int32)
        self._line_starts = starts(np.diff(layout.shard_starts)[self._shards])
        kept = min(layout.streams + 1, _WINDOWS_KEPT)  # a stream is in one window at a time
        self._window = lru_cache(kept)(self._shuffled_window)

    def samples(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the sample ids at positions start to stop of the epoch, dtype int64."""
        assert 0 <= start <= stop <= self.layout.samples
        parts = []
        while start < stop:
            block_end = min(stop, (start // self.layout.block_samples + 1) * self.layout.block_samples)
            parts.append(self._within_block(start, block_end))
            start = block_end
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def shards_of_stream(self, stream: int) -> set[int]:
        """Return the numbers of the shards that a stream reads from."""
        start, end = (int(x) for x in self.layout.stream_starts[stream : stream + 2])
        if start == end:
            return set()
        first = int(np.searchsorted(self._line_starts, start, side="right")) - 1
        last = int(np.searchsorted(self._line_starts, end, side="left"))
        return set(self._shards[first:last].tolist())

    def _within_block(self, start: int, stop: int) -> NDArray[np.int64]:
        """Positions of one block lie side by side in one stream, perhaps in several windows of it."""
        layout = self.layout
        block, offset = divmod(start, layout.block_samples)
        round_of_streams, stream = divmod(block, layout.streams)
        line = int(layout.stream_starts[stream]) + round_of_streams * layout.block_samples + offset
        end = line + stop - start
        parts = []
        while line < end:
            window = self._window_of(line)
            window_start, window_end = self._window_span(stream, window)
            upto = min(end, window_end)
            parts.append(self._window(stream, window)[line - window_start : upto - window_start])
            line = upto
        return np.concatenate(parts)

    def _window_of(self, line: int) -> int:
        shard_on_line = int(np.searchsorted(self._line_starts, line, side="right")) - 1
        return shard_on_line // self.layout.window_shards

    def _window_span(self, stream: int, window: int) -> tuple[int, int]:
        """Return the part of the line that is both in the window of shards and in the stream."""
        first_shard = window * self.layout.window_shards
        last_shard = min(first_shard + self.layout.window_shards, len(self._line_starts) - 1)
        start, end = int(self._line_starts[first_shard]), int(self._line_starts[last_shard])
        stream_start, stream_end = (int(x) for x in self.layout.stream_starts[stream : stream + 2])
        return max(start, stream_start), min(end, stream_end)

    def _shuffled_window(self, stream: int, window: int) -> NDArray[np.int64]:
        start, end = self._window_span(stream, window)
        window_key = key(self.layout.seed, self.epoch, _WINDOW, stream, window)
        line = start + permutation(window_key, end - start)
        shard_on_line = np.searchsorted(self._line_starts, line, side="right") - 1
        first_ids = self.layout.shard_starts[self._shards[shard_on_line]]
        return np.asarray(first_ids + line - self._line_starts[shard_on_line], dtype=np.int64)


class PickedOrder:
    """The order of some samples of a layout, of the same or of others in every epoch, some of them several times.

    The shards then count as many samples as are picked from them, so the drawing above holds for the picked ones.
    """

    def __init__(self, layout: Layout, samples: int, picks: Callable[[int], NDArray[np.int64]]):
        """Take how many draws an epoch has, and the function that gives their sample ids, sorted, for an epoch."""
        self.samples = samples
        self.layout = layout
        self._picks = picks
        self._opened = lru_cache(_EPOCHS_KEPT)(self._open)

    def draws(self, epoch: int, start: int, stop: int) -> Draws:
        """Return the draws at positions start to stop of an epoch."""
        picked, order = self._opened(epoch)
        rows = order.samples(start, stop)
        sample_ids = picked[rows]
        return Draws(sample_ids, rows - np.searchsorted(picked, sample_ids))

    def epoch_layout(self, epoch: int) -> Layout:
        """Return the layout of the samples picked for an epoch."""
        return self._opened(epoch)[1].layout

    def _open(self, epoch: int) -> tuple[NDArray[np.int64], EpochOrder]:
        picked = self._picks(epoch)
        assert len(picked) == self.samples
        counts = np.diff(np.searchsorted(picked, self.layout.shard_starts))
        return picked, EpochOrder(replace(self.layout, shard_samples=counts), epoch)
