"""FFCV's part of benchmarks/repack.py. It runs in the Python that has FFCV, and imports nothing of megabatch.

    python benchmarks/ffcv_reader.py DATA_FOLDER STORE IMAGES     # writes STORE, then answers on standard output

DATA_FOLDER is a data set of megabatch with a split train. For each line on standard input IMAGES images are read and
the images a second are printed.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

SIZE, BATCH = 224, 64
MAX_SIZE, QUALITY = 512, 90
_FIRST_BATCHES = 6  # not timed: until then threads start, and FFCV touches the memory of its 5 batches the first time
_SMALLEST_PAGE = 2 << 20  # so that a small store has little empty room


def answer(batch_sizes: Callable[[], Iterator[int]]) -> None:
    """For each line on standard input go through the batches once and print images a second."""
    for _ in sys.stdin:
        batches = batch_sizes()
        for _ in range(_FIRST_BATCHES):
            next(batches)
        started = time.perf_counter()
        images = sum(batches)
        print(images / (time.perf_counter() - started), flush=True)


class TarPayloads:
    """The train images of a data set as (RGB image, label), for FFCV's writer."""

    def __init__(self, folder: Path):
        self.payloads: list[bytes] = []
        self.labels: list[int] = []
        for path in sorted(folder.glob("train-*.tar")):
            with tarfile.open(path) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    assert file is not None
                    if member.name.endswith(".cls"):
                        self.labels.append(int(file.read()))
                    else:
                        self.payloads.append(file.read())

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.payloads)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        """Return one decoded image and its label."""
        from PIL import Image

        return Image.open(io.BytesIO(self.payloads[number])).convert("RGB"), self.labels[number]


def write_store(folder: Path, store: Path) -> None:
    """Write the images of the data set with the settings that FFCV has for what `megabatch data repack` does."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    image = RGBImageField(write_mode="jpg", max_resolution=MAX_SIZE, jpeg_quality=QUALITY)
    fields = {"image": image, "label": IntField()}
    DatasetWriter(str(store), fields, page_size=_SMALLEST_PAGE, num_workers=1).from_indexed_dataset(TarPayloads(folder))


def open_store(store: Path, images: int) -> Callable[[], Iterator[int]]:
    """Return a function for a pass over `images` images: crop, flip, uint8; one worker, from the page cache."""
    import numpy as np
    from ffcv.fields.decoders import IntDecoder
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.reader import Reader
    from ffcv.transforms import RandomHorizontalFlip, ToTensor

    loader = Loader(
        str(store),
        BATCH,
        num_workers=1,
        os_cache=True,
        order=OrderOption.SEQUENTIAL,
        indices=np.arange(images) % int(Reader(str(store)).num_samples),
        drop_last=False,
        pipelines={
            "image": [RandomResizedCropRGBImageDecoder((SIZE, SIZE)), RandomHorizontalFlip(), ToTensor()],
            "label": [IntDecoder(), ToTensor()],
        },
    )
    return lambda: (len(labels) for _, labels in loader)


def _facts(store: Path) -> str:
    from ffcv.reader import Reader

    images = int(Reader(str(store)).alloc_table["size"].sum())
    return json.dumps({"version": version("ffcv"), "images_bytes": images, "store_bytes": store.stat().st_size})


def _stop(failure: threading.ExceptHookArgs) -> None:
    sys.excepthook(failure.exc_type, failure.exc_value or failure.exc_type(), failure.exc_traceback)
    os._exit(1)


def main() -> None:
    """Write the store, compile with a short pass, print one line of facts, then answer."""
    threading.excepthook = _stop  # a thread of FFCV that fails would leave us waiting for ever
    folder, store, images = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    with redirect_stdout(sys.stderr):
        write_store(folder, store)
    batch_sizes = open_store(store, images)
    next(batch_sizes())
    print(_facts(store), flush=True)
    answer(batch_sizes)


if __name__ == "__main__":
    main()
