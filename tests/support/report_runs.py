"""Run folders as a training leaves them, written by hand: everything that a report can show, at any size."""

from __future__ import annotations

import base64
import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from megabatch.configs.load import load
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.prepare import job_of
from megabatch.launcher.save_job import write_job

BEGAN = 1_796_000_000.0
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
STEP_SECONDS = 0.5


def bare_run(folder: Path, *overrides: str, recipe: str = "digits") -> RunDir:
    """A folder with a job.yaml, as it is before the ranks begin."""
    folder.mkdir(parents=True, exist_ok=True)
    run_dir = RunDir(folder)
    write_job(job_of(load(recipe, "laptop", overrides)), run_dir.job)
    return run_dir


def rich_run(
    folder: Path, steps: int = 600, classes: Sequence[str] = CIFAR10, seed: int = 0, *overrides: str
) -> RunDir:
    """A finished run with a restart, a bad step, left-out samples, two evaluations' details and a straggler."""
    run_dir = bare_run(folder, f"name='{folder.name}'", *overrides)
    draws = np.random.default_rng(seed)
    lines(run_dir.metrics, [*_first_attempt(draws, steps), *_second_attempt(draws, steps)])
    lines(run_dir.starts, _starts(steps))
    lines(run_dir.rank_history, _rank_history(draws, steps))
    lines(run_dir.data_errors, [
        {"split": "train", "step": 9, "epoch": 0, "reason": "damaged", "shard": "train-000001.tar", "key": f"{n:06d}",
         "sample_id": n, "message": f"train-000001.tar: {n:06d}.jpg: cut short"} for n in (5, 81)
    ])  # fmt: skip
    lines(run_dir.bad_steps, [
        {"kind": "bad_step", "attempt": 1, "step": steps // 3, "reason": "loss is 8.1 times the median", "then": "skip",
         "loss": 9.3, "gradient_norm": None, "epoch": 1, "first_position": 0, "samples": {}, "worst": None}
    ])  # fmt: skip
    whole(run_dir.details("test"), class_details(draws, classes, "test", steps))
    test = {"split": "test", "samples": 10_000, "loss": 0.41, "top1": 0.8734, "top5": 0.991, "checkpoint_step": steps}
    whole(run_dir.result, {
        "total_steps": steps, "outcome": "finished", "step": steps, "best_step": steps, "best_value": 0.88,
        "seconds": steps * STEP_SECONDS, "test": test,
    })  # fmt: skip
    run_dir.checkpoint(steps).mkdir(parents=True)
    run_dir.launches.write_text(json.dumps(launch_line(folder, steps)) + "\n", encoding="utf-8")
    os.utime(run_dir.metrics, (BEGAN, BEGAN + steps * STEP_SECONDS))
    return run_dir


def launch_line(folder: Path, steps: int) -> dict[str, Any]:
    return {
        "kind": "launch", "time": BEGAN, "folder": "/home/me/project", "command": ["megabatch", "launch", "mine.yaml", "epochs=30"],
        "git": {"commit": "4f2c9a1b77d0e8c35a6b19d2e4f80713c5a9b6d8", "branch": "main", "changed": 1},
        "base": "digits.yaml (shipped)", "total_steps": steps,
        "differences": [{"key": "epochs", "before": 20, "now": 30, "from": "command line"},
                        {"key": "optimizer.name", "before": "lamb", "now": "lars", "from": "mine.yaml:4:3"}],
        "plan": [["ranks", "2"], ["global batch", "256 samples a step"], ["steps", f"{steps} in all"]],
    }  # fmt: skip


def class_details(draws: np.random.Generator, classes: Sequence[str], split: str, step: int) -> dict[str, Any]:
    """What an evaluation of a target with one class for each sample found; 100 samples a class."""
    accuracy = np.clip(draws.normal(0.86, 0.09, len(classes)), 0.3, 0.99)
    right = [int(100 * share) for share in accuracy]
    confusion = [[n, n, count] for n, count in enumerate(right)]
    for n, count in enumerate(right):
        first = int((100 - count) * 0.6)
        others = [(n + 2) % len(classes), (n + 7) % len(classes)]
        confusion += [
            [n, other, part] for other, part in zip(others, (first, 100 - count - first), strict=True) if part
        ]
    confusion.sort(key=lambda cell: -cell[2])
    return {
        "split": split, "step": step, "checkpoint": "best", "samples": 100 * len(classes), "target": "class",
        "classes": list(classes), "confusion": confusion[:20_000],
        "per_class": [{"class": n, "samples": 100, "correct": count, "predicted": 97} for n, count in enumerate(right)],
        "mistakes": [
            {"key": f"{n:06d}", "shard": f"{split}-000000.tar", "label": n % len(classes),
             "predicted": (n + 2) % len(classes), "probability": 0.98 - 0.01 * n, "label_probability": 0.002,
             "loss": 6.0 - 0.1 * n, "thumbnail": thumbnail(draws)} for n in range(12)
        ],
    }  # fmt: skip


def thumbnail(draws: np.random.Generator) -> str:
    small = draws.integers(0, 255, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((96, 96), Image.Resampling.BICUBIC).save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()


def lines(file: Path, objects: Iterable[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(one) + "\n" for one in objects), encoding="utf-8")


def whole(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values), encoding="utf-8")


def step_line(draws: np.random.Generator, attempt: int, step: int, steps: int, at: float) -> dict[str, Any]:
    """A line as the trainer writes it."""
    part = step / steps
    return {
        "kind": "step", "attempt": attempt, "time": at, "step": step, "epoch": step // 100, "samples_seen": 256 * step,
        "loss": 0.35 + 1.9 * math.exp(-4 * part) + float(draws.normal(0, 0.06)),
        "learning_rate": 0.8 * min(1.0, part / 0.1) * 0.5 * (1 + math.cos(math.pi * part)),
        "samples_per_second": float(draws.normal(510, 12)), "seconds": STEP_SECONDS, "data_wait_seconds": 0.02,
        "data_wait_share": float(abs(draws.normal(0.03, 0.01))), "skipped_samples": 0,
        "gradient_norm": 0.4 + 2 * math.exp(-6 * part) + float(abs(draws.normal(0, 0.08))),
        "noise_scale": 300 + 4000 * part,
    }  # fmt: skip


def _attempt(
    draws: np.random.Generator, attempt: int, first: int, last: int, steps: int, at: float
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for step in range(first, last + 1):
        now = at + STEP_SECONDS * (step - first + 1)
        found.append(step_line(draws, attempt, step, steps, now))
        if step % max(1, steps // 10) == 0:
            top1 = 0.89 * (1 - math.exp(-5 * step / steps))
            found.append({"kind": "evaluation", "attempt": attempt, "time": now, "step": step, "split": "validation",
                          "samples": 5000, "loss": 0.45 + 1.7 * math.exp(-4 * step / steps), "top1": top1,
                          "top5": min(0.995, top1 + 0.3)})  # fmt: skip
            found.append({"kind": "checkpoint", "time": now, "step": step, "attempt": attempt, "stalled_seconds": 0.0031,
                          "waited_seconds": 0.0, "background_seconds": 0.21})  # fmt: skip
    return found


def _first_attempt(draws: np.random.Generator, steps: int) -> list[dict[str, Any]]:
    return _attempt(draws, 1, 1, steps // 2 + steps // 20, steps, BEGAN)


def _second_attempt(draws: np.random.Generator, steps: int) -> list[dict[str, Any]]:
    found = _attempt(draws, 2, steps // 2 + 1, steps, steps, BEGAN + steps)
    return [*found, {"kind": "evaluation", "attempt": 2, "time": BEGAN + 2 * steps, "step": steps, "split": "test",
                     "samples": 10_000, "loss": 0.41, "top1": 0.8734, "top5": 0.991}]  # fmt: skip


def _starts(steps: int) -> list[dict[str, Any]]:
    common = {"ranks": 4, "hosts": ["node-a", "node-b"], "device": "cuda (NVIDIA H200)", "engine": "ddp",
              "versions": {"megabatch": "0.1.0", "torch": "2.11.0", "python": "3.11.2"}}  # fmt: skip
    half = steps // 2
    return [
        {"kind": "start", "attempt": 1, "time": BEGAN, "step": 0, "from_checkpoint": None, **common},
        {"kind": "end", "attempt": 1, "time": BEGAN + STEP_SECONDS * (half + steps // 20), "step": half + steps // 20,
         "outcome": "failed", "cause": "rank 3 on node-b was killed by SIGKILL: out of memory, or kill -9 from outside"},
        {"kind": "start", "attempt": 2, "time": BEGAN + steps, "step": half, "from_checkpoint": f"step-{half:08d}", **common},
        {"kind": "end", "attempt": 2, "time": BEGAN + steps + STEP_SECONDS * half, "step": steps, "outcome": "finished",
         "cause": None},
    ]  # fmt: skip


def _rank_history(draws: np.random.Generator, steps: int) -> list[dict[str, Any]]:
    waits = (0.31, 0.29, 0.33, 0.04)
    return [
        {"time": BEGAN + steps + STEP_SECONDS * step, "attempt": 2, "step": step, "ranks": [
            {"rank": rank, "host": "node-a" if rank < 2 else "node-b", "waits_for_ranks": wait + float(draws.normal(0, 0.01)),
             "waits_for_data": 0.22 if rank == 3 else 0.02, "memory_bytes": 3.1e9 + 4e7 * rank,
             "gpu_memory_bytes": 61e9 + 1e9 * rank} for rank, wait in enumerate(waits)
        ]} for step in range(steps // 2, steps + 1, max(1, steps // 100))
    ]  # fmt: skip
