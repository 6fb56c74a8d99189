"""Shards that can only be read from front to back (`pipe:` commands, compressed tars), through webdataset.

There is no index, so there is no exact order: samples come as the shards give them, mixed in a buffer; an epoch is the
number of samples the recipe states; and a resumed run goes on with other samples than it would have had. webdataset
also ends a damaged shard silently. So this is for data that cannot be had in another way, and the run says so.

webdataset's decoders are not used: they unpickle what carries the fitting extension. Payloads stay bytes.
"""

from __future__ import annotations

import tarfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import webdataset
from webdataset.tariterators import group_by_keys, tar_file_expander

from megabatch.data.errors import DataError
from megabatch.data.hashing import key, permutation
from megabatch.data.read import NO_LABEL, EncodedSample
from megabatch.data.stream_order import PIPE
from megabatch.data.tar_index import IMAGE_EXTENSIONS, LABEL_EXTENSION
from megabatch.data.targets import TargetReader

_STREAM = 7  # what a key is for


class StreamReader:
    """Gives the next sample of this rank's shards, whichever id is asked for; endless, from any thread."""

    def __init__(
        self,
        urls: Sequence[str],
        seed: int,
        rank: int,
        num_ranks: int,
        shuffle_buffer: int,
        target: TargetReader | None = None,
    ):
        """Raises DataError if there are fewer shards than ranks: some would have nothing to read."""
        if len(urls) < num_ranks:
            raise DataError(f"{len(urls)} streams for {num_ranks} ranks: each rank needs one of its own at least")
        self._lock = threading.Lock()
        self._target = target
        self._samples = _endless(sorted(urls)[rank::num_ranks], key(seed, _STREAM, rank), shuffle_buffer)

    def read(self, sample_id: int) -> EncodedSample:
        """Return the next sample. Raises DataError naming the shard."""
        with self._lock:
            sample = next(self._samples)
        return _encoded(sample, self._target)

    @property
    def samples(self) -> int:
        """Raise DataError: a stream has no end."""
        raise DataError("a stream has no number of samples")

    @property
    def is_remote(self) -> bool:
        """Return False: a stream cannot be begun in the middle."""
        return False

    def prefetch(self, sample_ids: Iterable[int]) -> None:
        """Do nothing."""


def _endless(urls: list[str], seed: int, shuffle_buffer: int) -> Iterator[dict[str, Any]]:
    for epoch in count():
        order = permutation(key(seed, epoch), len(urls))
        mixed = webdataset.detshuffle(shuffle_buffer, initial=shuffle_buffer // 10, seed=seed, epoch=epoch - 1)
        seen = 0
        try:
            for sample in mixed.run(_of_shards([urls[number] for number in order])):
                seen += 1
                yield sample
        except (OSError, ValueError, tarfile.TarError, EOFError) as error:
            raise DataError(f"the stream broke off after {seen:,} samples: {error}") from error
        if seen == 0:
            raise DataError(f"{urls[0]} and {len(urls) - 1} others gave no samples: look at what the command prints")


def _of_shards(urls: list[str]) -> Iterator[dict[str, Any]]:
    for url in urls:
        with webdataset.gopen(url) if url.startswith(PIPE) else Path(url).open("rb") as stream:
            yield from group_by_keys(tar_file_expander([{"url": url, "stream": stream}]))


def _encoded(sample: dict[str, Any], target: TargetReader | None) -> EncodedSample:
    shard, name = str(sample["__url__"]), str(sample["__key__"])
    images = [sample[extension] for extension in IMAGE_EXTENSIONS if extension in sample]
    extension = LABEL_EXTENSION if target is None else target.extension
    content = sample.get(extension)
    if len(images) != 1 or content is None:
        raise DataError(f"{shard}: sample {name} needs one image ({', '.join(IMAGE_EXTENSIONS)}) and one .{extension}")
    try:
        if target is not None:
            return EncodedSample(shard, name, memoryview(images[0]), NO_LABEL, values=target.parse(content))
        label = int(content)
    except ValueError as error:
        reason = error if target is not None else f"{content[:40]!r} is no integer"
        raise DataError(f"{shard}: {name}.{extension}: {reason}") from None
    return EncodedSample(shard, name, memoryview(images[0]), label)
