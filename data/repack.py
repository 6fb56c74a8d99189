"""Smaller images in the same kind of shards: half of the bytes, less to decode, for training that crops anyway.

Keys, labels and other targets (.json, .txt, .num), order, splits and shard boundaries stay. Images are re-encoded, so
this is a lossy copy: keep the source.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from megabatch.data.dataset import Dataset, Shard, Split
from megabatch.data.decode import Pixels, decode_image
from megabatch.data.errors import DataError
from megabatch.data.importer import require_room, write_folder, write_shard
from megabatch.data.jpeg.cut import restart_interval
from megabatch.data.read import EncodedSample, SplitReader
from megabatch.data.tar_index import LABEL_EXTENSION, TARGET_EXTENSIONS

_KEPT = (LABEL_EXTENSION, *TARGET_EXTENSIONS)
_MOST_PIXELS = 100_000_000  # as data.max_image_pixels unless a recipe says otherwise
_UNIT_WIDTH = 16  # pixels of a coded unit at 4:2:0


@dataclass(frozen=True)
class RepackOptions:
    """The longest side in pixels, the JPEG quality, and how many threads work."""

    max_size: int = 512
    quality: int = 90
    threads: int = 1
    overwrite: bool = False


def repack(dataset: Dataset, out: Path, options: RepackOptions, progress: Callable[[int, int], None]) -> Dataset:
    """Write a copy of a data set with smaller JPEGs (4:2:0) into `out`.

    An image whose longer side is above max_size is resized (Lanczos, shape kept). One within it whose bytes would not
    become fewer stays as it is. The result does not depend on the threads. Raises DataError for a broken image.
    """
    require_room(out, options.overwrite)
    total = sum(split.samples for split in dataset.splits)
    done = iter(range(1, total + 1))

    def write_splits(folder: Path) -> tuple[Split, ...]:
        with ThreadPoolExecutor(options.threads) as pool:
            return tuple(_write_split(dataset, split, folder, options, pool, lambda: progress(next(done), total))
                         for split in dataset.splits)  # fmt: skip

    return write_folder(out, dataset.classes, write_splits)


def _write_split(
    dataset: Dataset,
    split: Split,
    folder: Path,
    options: RepackOptions,
    pool: ThreadPoolExecutor,
    written: Callable[[], None],
) -> Split:
    reader = SplitReader(dataset.folder, split)
    shards: list[Shard] = []
    first = 0
    for number, shard in enumerate(split.shards):
        members = _members(reader, number, first, options, pool)
        shards.append(write_shard(folder / f"{split.name}-{number:06d}.tar", members, written))
        first += shard.samples
    return Split(split.name, tuple(shards), split.label_counts)


def _members(
    reader: SplitReader, shard: int, first_id: int, options: RepackOptions, pool: ThreadPoolExecutor
) -> Iterator[dict[str, str | bytes]]:
    """Yield the samples in order; a few for each thread are worked on at a time, so memory stays bounded."""
    samples = reader.samples_of(shard)
    ahead = 4 * options.threads

    def repacked(row: int) -> dict[str, str | bytes]:
        kept = [member for member in samples[row].members if member.extension in _KEPT]
        payloads = zip((member.extension for member in kept), reader.payloads(shard, kept), strict=True)
        return {**_repacked(reader.read(first_id + row), options), **dict(payloads)}

    for start in range(0, len(samples), ahead):
        yield from pool.map(repacked, range(start, min(start + ahead, len(samples))))


def _repacked(sample: EncodedSample, options: RepackOptions) -> dict[str, str | bytes]:
    try:
        extension, payload = _smaller(sample.image, options)
    except ValueError as error:
        raise DataError(f"{sample.where}: {error}. `megabatch data clean` makes a copy without such") from None
    return {"__key__": sample.key, extension: payload}


def _smaller(payload: memoryview, options: RepackOptions) -> tuple[str, bytes]:
    pixels = decode_image(payload, _MOST_PIXELS)
    height, width = pixels.shape[:2]
    longest = max(height, width)
    if longest > options.max_size:
        scale = options.max_size / longest
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    encoded = _encoded(pixels, options.quality)
    is_jpeg = bytes(payload[:3]) == b"\xff\xd8\xff"
    if longest <= options.max_size and is_jpeg and len(payload) <= len(encoded):
        return "jpg", bytes(payload)
    return "jpg", encoded


def _encoded(pixels: Pixels, quality: int) -> bytes:
    """Encode as 4:2:0 with restart markers, so that a crop can be decoded without the rest (data/jpeg/cut.py)."""
    interval = restart_interval(pixels.shape[1], _UNIT_WIDTH)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(
        buffer, "JPEG", quality=quality, subsampling="4:2:0", optimize=True, restart_marker_blocks=interval
    )
    return buffer.getvalue()
