"""Images a second from plain tar shards: megabatch beside torchvision, timm, Pillow, webdataset and DALI.

    python benchmarks/loader.py DATA_FOLDER [--rounds 5] [--workers 1] [--libturbojpeg FOLDER] [--dali-python PYTHON]

DATA_FOLDER is a data set of megabatch with a split train of JPEGs. Every variant runs in a fresh process on as many
cores as workers; rounds are interleaved; after a pass that is not counted, passes are timed for --seconds. Medians and
ratios of medians are printed. `megabatch + libturbojpeg 3` runs where --libturbojpeg names a folder with
libturbojpeg.so.0 of version 3 or newer; DALI where --dali-python names an interpreter that has nvidia-dali.
"full decode" and "crop decode" only decode: the limits. benchmarks/loader_variants.py says what each does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from loader_variants import BATCH, PEERS, VARIANTS, _loader, _requests

OURS, OURS_TJ3, LIMIT_TJ3 = "megabatch", "megabatch + libturbojpeg 3", "crop decode"


def measure(variant: str, folder: Path, workers: int, seconds: float) -> None:
    """Run one variant in this process and print images a second."""
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:workers]))
    if variant != "dali":  # its interpreter needs no torch
        import torch

        torch.set_num_threads(1)
    run = VARIANTS[variant](folder, workers)
    run()
    count, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        count += run()
    print(count / elapsed)


def responsiveness(folder: Path, workers: int) -> None:
    """Print what the training thread spends on receiving, and how soon a first batch comes at any position."""
    import numpy as np

    loader = _loader(folder, workers)
    samples = loader.reader.samples
    started, received = time.thread_time(), 0
    for _ in range(20):
        received += sum(len(batch.labels_N) for batch in loader.load(_requests(range(0, samples, BATCH), samples)))
    print(f"receiving: {1e3 * (time.thread_time() - started) / received:.4f} ms of the training thread an image")
    firsts = []
    for start in np.random.default_rng(0).integers(0, samples - BATCH, 20):
        opened = time.perf_counter()
        next(_loader(folder, workers).load(_requests([int(start)], samples)))
        firsts.append(1e3 * (time.perf_counter() - opened))
    print(
        f"first batch of {BATCH}: median {statistics.median(firsts):.0f} ms, worst {max(firsts):.0f} ms after opening"
    )


def main() -> None:
    """Measure all variants and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--libturbojpeg", type=Path, help="folder with libturbojpeg.so.0 of version 3")
    parser.add_argument("--dali-python", help="interpreter with nvidia-dali")
    parser.add_argument("--variant", choices=VARIANTS, help="measure only this one, in this process")
    options = parser.parse_args()
    if options.variant:
        measure(options.variant, options.folder, options.workers, options.seconds)
        return
    rates: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for name, command, environment in _runs(options):
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                sys.exit(f"{name}: {done.stderr}")
            rates.setdefault(name, []).append(float(done.stdout.splitlines()[-1]))
    report({name: statistics.median(values) for name, values in rates.items()}, rates)
    responsiveness(options.folder, options.workers)


def _runs(options: argparse.Namespace) -> list[tuple[str, list[str], dict[str, str]]]:
    own = {**os.environ, "OMP_NUM_THREADS": "1"}
    with_tj3 = {**own, "LD_LIBRARY_PATH": str(options.libturbojpeg)}
    chosen = [(name, name, sys.executable, own) for name in VARIANTS if name not in ("dali", LIMIT_TJ3)]
    if options.libturbojpeg:
        chosen.insert(1, (OURS_TJ3, OURS, sys.executable, with_tj3))
        chosen.append((LIMIT_TJ3, LIMIT_TJ3, sys.executable, with_tj3))
    if options.dali_python:
        chosen.append(("dali", "dali", options.dali_python, own))
    if options.workers > 1:
        chosen = [entry for entry in chosen if entry[1] not in ("full decode", LIMIT_TJ3)]
    arguments = ["--seconds", str(options.seconds), "--workers", str(options.workers), "--variant"]
    return [
        (name, [python, __file__, str(options.folder), *arguments, variant], environment)
        for name, variant, python, environment in chosen
    ]


def report(medians: dict[str, float], rates: dict[str, list[float]]) -> None:
    """Print the table and the ratios that matter."""
    for name, median in medians.items():
        span = f"({min(rates[name]):.0f} to {max(rates[name]):.0f})"
        print(f"{name:27} {median:6.0f} images/s {span:16} megabatch / it {medians[OURS] / median:.2f}")
    best = max((name for name in PEERS if name in medians), key=lambda name: medians[name])
    for ours in (OURS, OURS_TJ3):
        if ours in medians:
            others = [best, *(name for name in ("timm", "webdataset", "dali") if name in medians and name != best)]
            ratios = ", ".join(f"{medians[ours] / medians[name]:.2f} x {name}" for name in others)
            print(f"{ours}: {ratios} (best peer first)")
    if LIMIT_TJ3 in medians:
        print(f"{OURS_TJ3}: {medians[OURS_TJ3] / medians[LIMIT_TJ3]:.2f} of the crop-decode limit")


if __name__ == "__main__":
    main()
