"""One core, decoded and cropped: megabatch beside torchvision, timm, Pillow and stock webdataset on the same shards.

    python benchmarks/loader.py DATA_FOLDER [--rounds 5] [--passes 5]

DATA_FOLDER is a data set of megabatch (plain tars, so stock webdataset reads the same files). Every variant makes
 batches of 64 images of 224 x 224, RandomResizedCrop and horizontal flip; all but stock webdataset keep them
uint8. Each runs in a fresh process pinned to one core; rounds are interleaved; after a pass that is not counted, PASSES
passes are timed. The variants marked "memory" get the encoded bytes from a list, which spares them the reading.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

SIZE, BATCH = 224, 64


def megabatch(folder: Path) -> Callable[[], int]:
    """Index, mmap, simplejpeg, torch's antialiased resize; one loader thread."""
    import numpy as np

    from megabatch.configs.transforms import HorizontalFlip, RandomResizedCrop
    from megabatch.data.augment.chain import chain
    from megabatch.data.dataset import read_dataset
    from megabatch.data.loader import Loader
    from megabatch.data.read import SplitReader
    from megabatch.data.requests import Request

    dataset = read_dataset(folder)
    reader = SplitReader(folder, dataset.split("train"))
    transform = chain([RandomResizedCrop(), HorizontalFlip()], SIZE)
    loader = Loader(reader, transform, SIZE, len(dataset.classes), 10**8, seed=0, threads=1)

    def requests() -> Iterator[Request]:
        for start in range(0, reader.samples, BATCH):
            ids = np.arange(start, min(start + BATCH, reader.samples), dtype=np.int64)
            yield Request(0, 0, start, ids, np.zeros_like(ids), reader.samples, last=False)

    return lambda: sum(len(batch.labels_N) for batch in loader.load(requests()))


def _batched(images: Iterable[Any]) -> int:
    import torch

    count, batch = 0, []
    for image in images:
        batch.append(image)
        if len(batch) == BATCH:
            count += len(torch.stack(batch))
            batch = []
    return count + (len(torch.stack(batch)) if batch else 0)


def _payloads(folder: Path) -> list[bytes]:
    from megabatch.data.dataset import read_dataset
    from megabatch.data.read import SplitReader

    reader = SplitReader(folder, read_dataset(folder).split("train"))
    return [bytes(reader.read(number).image) for number in range(reader.samples)]


def torchvision_memory(folder: Path) -> Callable[[], int]:
    """torchvision.io.decode_jpeg and transforms v2, uint8."""
    import numpy as np
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms import v2

    transform = v2.Compose([v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()])
    encoded = [torch.from_numpy(np.frombuffer(payload, dtype=np.uint8).copy()) for payload in _payloads(folder)]
    return lambda: _batched(transform(decode_jpeg(payload, ImageReadMode.RGB)) for payload in encoded)


def timm_memory(folder: Path) -> Callable[[], int]:
    """Pillow and timm's own training transform (bilinear, no colour jitter), uint8."""
    import io

    import torch
    from PIL import Image
    from timm.data import create_transform

    transform = create_transform(
        SIZE, is_training=True, use_prefetcher=True, color_jitter=None, interpolation="bilinear"
    )
    payloads = _payloads(folder)

    def image(payload: bytes) -> torch.Tensor:
        return torch.as_tensor(transform(Image.open(io.BytesIO(payload)).convert("RGB")))

    return lambda: _batched(map(image, payloads))


def pillow_memory(folder: Path) -> Callable[[], int]:
    """Pillow and torchvision's transforms, uint8."""
    import io

    from PIL import Image
    from torchvision import transforms

    crop = transforms.RandomResizedCrop(SIZE)
    transform = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.PILToTensor()])
    payloads = _payloads(folder)
    return lambda: _batched(transform(Image.open(io.BytesIO(payload)).convert("RGB")) for payload in payloads)


def webdataset_stock(folder: Path) -> Callable[[], int]:
    """Stock webdataset as its README shows it: decode("pil"), torchvision's transforms, float32 from ToTensor."""
    import webdataset
    from torchvision import transforms

    crop = transforms.RandomResizedCrop(SIZE)
    transform = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.ToTensor()])
    tars = sorted(str(path) for path in folder.glob("train-*.tar"))

    def run() -> int:
        samples = webdataset.WebDataset(tars, shardshuffle=False).decode("pil").to_tuple("jpg;jpeg;png", "cls")
        return _batched(image for image, _ in samples.map_tuple(transform, lambda label: label))

    return run


VARIANTS: dict[str, Callable[[Path], Callable[[], int]]] = {
    "megabatch": megabatch,
    "torchvision v2 (memory)": torchvision_memory,
    "timm (memory)": timm_memory,
    "pillow (memory)": pillow_memory,
    "webdataset": webdataset_stock,
}


def measure(variant: str, folder: Path, passes: int) -> None:
    """Run one variant in this process and print images a second."""
    os.sched_setaffinity(0, {0})
    import torch

    torch.set_num_threads(1)
    run = VARIANTS[variant](folder)
    run()
    started = time.perf_counter()
    count = sum(run() for _ in range(passes))
    print(count / (time.perf_counter() - started))


def main() -> None:
    """Measure all variants and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--variant", choices=VARIANTS, help="measure only this one, in this process")
    options = parser.parse_args()
    if options.variant:
        measure(options.variant, options.folder, options.passes)
        return
    rates: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(options.rounds):
        for name in VARIANTS:
            command = [
                sys.executable,
                __file__,
                str(options.folder),
                "--passes",
                str(options.passes),
                "--variant",
                name,
            ]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            rates[name].append(float(done.stdout.splitlines()[-1]))
    ours = statistics.median(rates["megabatch"])
    for name, values in rates.items():
        median = statistics.median(values)
        span = f"({min(values):.0f} to {max(values):.0f})"
        print(f"{name:26} {median:6.0f} images/s {span:14} megabatch / it {ours / median:.2f}")


if __name__ == "__main__":
    main()
