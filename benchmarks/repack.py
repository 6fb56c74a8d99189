"""Images a second from shards as they are, from the smaller copy of `megabatch data repack`, and from FFCV's own store.

    python benchmarks/repack.py DATA_FOLDER [--rounds 3] [--libturbojpeg FOLDER] [--ffcv-python PYTHON]

DATA_FOLDER is a data set of megabatch with a split train of JPEGs. Both copies are made of it in a temporary folder:
longest side 512, JPEG quality 90. Everybody then makes batches of 64 uint8 images of 224 x 224, random resized crop and
horizontal flip, on one core with one thread, from the page cache. One process for each contender stays alive, and they
take turns; after a round that is not counted, medians over the rounds are printed. Where --libturbojpeg names a folder
with libturbojpeg.so.0 of version 3 or newer, all run with it too. FFCV runs where --ffcv-python names an interpreter
that has it; benchmarks/ffcv_reader.py is its part.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ffcv_reader import BATCH, MAX_SIZE, QUALITY, answer

_READER = Path(__file__).with_name("ffcv_reader.py")


class Contender(NamedTuple):
    """A process that reads once for each line it is sent; `facts` is what it said when it was ready."""

    name: str
    process: subprocess.Popen[str]
    facts: dict[str, Any]

    def rate(self) -> float:
        """Let it read once and return images a second."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(_line(self.name, self.process))


def _line(name: str, process: subprocess.Popen[str]) -> str:
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        sys.exit(f"{name} ended without an answer; see above")
    return line


def read_shards(folder: Path, images: int) -> None:
    """Be one of megabatch's contenders."""
    import torch
    from loader_variants import _loader

    from megabatch.data.jpeg.turbojpeg3 import find_turbojpeg3

    torch.set_num_threads(1)
    loader = _loader(folder, workers=1)
    print(json.dumps({"libturbojpeg3": find_turbojpeg3().library is not None}), flush=True)
    answer(lambda: (len(batch.labels_N) for batch in loader.load(_requests(images, loader.reader.samples))))


def _requests(images: int, samples: int) -> Iterator[Any]:
    """Ask for the samples again and again, with other crops each time."""
    import numpy as np

    from megabatch.data.requests import Request

    for start in range(0, images, BATCH):
        positions = np.arange(start, min(start + BATCH, images), dtype=np.int64)
        yield Request(0, 0, start, positions % samples, positions // samples, images, last=False)


def start(name: str, command: list[str], libturbojpeg: Path | None) -> Contender:
    """Start a contender and wait until it is ready."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1", "CUDA_VISIBLE_DEVICES": ""}
    if libturbojpeg:
        environment["LD_LIBRARY_PATH"] = str(libturbojpeg)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    return Contender(name, process, json.loads(_line(name, process)))


def contenders(options: argparse.Namespace, scratch: Path) -> list[Contender]:
    """Start everybody; the copies are made on the way."""
    images = str(options.images)
    shards = [sys.executable, __file__, "--images", images, "--read"]
    repacked = scratch / "repacked"
    _repack(options.folder, repacked)
    started = []
    for library, suffix in ((None, ""), (options.libturbojpeg, " + libjpeg-turbo 3")):
        if suffix and not library:
            continue
        started.append(start("megabatch, shards as they are" + suffix, [*shards, str(options.folder)], library))
        started.append(start("megabatch, repacked shards" + suffix, [*shards, str(repacked)], library))
        if options.ffcv_python:
            store = str(scratch / f"{len(started)}.beton")
            command = [options.ffcv_python, str(_READER), str(options.folder), store, images]
            started.append(start("FFCV, its own store" + suffix, command, library))
    return started


def _repack(folder: Path, out: Path) -> None:
    from megabatch.data.dataset import read_dataset
    from megabatch.data.repack import RepackOptions, repack

    repack(read_dataset(folder), out, RepackOptions(MAX_SIZE, QUALITY), lambda done, total: None)


def report_bytes(folder: Path, repacked: Path, started: list[Contender]) -> None:
    """Print the size of the three stores, and of the images alone in them."""
    from loader_variants import _payloads

    sizes = {
        name: (sum(file.stat().st_size for file in place.glob("train-*")), sum(map(len, _payloads(place))))
        for name, place in (("shards as they are", folder), ("repacked shards", repacked))
    }
    for facts in (contender.facts for contender in started if "store_bytes" in contender.facts):
        sizes[f"FFCV {facts['version']}"] = facts["store_bytes"], facts["images_bytes"]
    original = sizes["shards as they are"][1]
    for name, (files, images) in sizes.items():
        print(f"{name:20} {files:12,} bytes, of which images {images:12,} ({images / original:.2f})")


def report_rates(rates: dict[str, list[float]]) -> None:
    """Print medians with their range, and how many times the better FFCV each is."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ffcv = max((median for name, median in medians.items() if name.startswith("FFCV")), default=None)
    for name, median in medians.items():
        span = f"({min(rates[name]):.0f} to {max(rates[name]):.0f})"
        ratio = f"{median / ffcv:.2f} x FFCV" if ffcv else ""
        print(f"{name:50} {median:6.0f} images/s {span:16} {ratio}".rstrip())
    if not ffcv:
        print("FFCV was left out: name an interpreter that has it with --ffcv-python")


def main() -> None:
    """Make the copies, let everybody read in turns, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=3000, help="images that each reads in a round")
    parser.add_argument("--libturbojpeg", type=Path, help="folder with libturbojpeg.so.0 of version 3")
    parser.add_argument("--ffcv-python", help="interpreter with ffcv")
    parser.add_argument("--read", action="store_true", help="be a contender that reads the folder")
    options = parser.parse_args()
    if options.read:
        read_shards(options.folder, options.images)
        return
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as scratch:
        started = contenders(options, Path(scratch))
        try:
            report_bytes(options.folder, Path(scratch) / "repacked", started)
            rates: dict[str, list[float]] = {}
            for _ in range(1 + options.rounds):
                for contender in started:
                    rates.setdefault(contender.name, []).append(contender.rate())
            report_rates({name: values[1:] for name, values in rates.items()})
        finally:
            for contender in started:
                contender.process.kill()
                contender.process.wait()


if __name__ == "__main__":
    main()
