"""Whether a run kept what is promised, judged by what it left on disk alone. Shares no code with what it judges."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_CHECKPOINT = re.compile(r"step-\d{8}")


def violations(run: Path, samples_per_epoch: int, finished_steps: int | None = None) -> list[str]:
    """Return every broken promise; `finished_steps` are all steps of a run that says it has finished."""
    return [*_samples(run, samples_per_epoch, finished_steps), *_metrics(run, finished_steps), *_checkpoints(run)]


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a log. One that a killed process left unfinished can only be the last before new ones."""
    for text in file.read_text().splitlines():
        try:
            yield json.loads(text)
        except ValueError:
            continue


def _samples(run: Path, samples_per_epoch: int, finished_steps: int | None) -> Iterator[str]:
    """Every sample exactly once an epoch; a step that was trained again had the same samples in the same order."""
    steps: dict[int, dict[int, list[int]]] = {}
    for file in sorted((run / "samples").glob("*.jsonl")):
        for line in _lines(file):
            numbers = steps.setdefault(line["step"], {})
            if numbers.setdefault(line["number"], line["sample_ids"]) != line["sample_ids"]:
                yield f"step {line['step']} was trained again with other samples"
    if sorted(steps) != list(range(len(steps))):
        yield f"steps {sorted(set(range(max(steps, default=0))) - set(steps))[:5]} were never trained"
        return
    trained = [i for step in sorted(steps) for number in sorted(steps[step]) for i in steps[step][number]]
    for first in range(0, len(trained) - samples_per_epoch + 1, samples_per_epoch):
        if sorted(trained[first : first + samples_per_epoch]) != list(range(samples_per_epoch)):
            yield f"epoch {first // samples_per_epoch} has not every sample once"
    if finished_steps is not None and (len(steps) != finished_steps or len(trained) % samples_per_epoch):
        yield f"finished after {len(steps)} of {finished_steps} steps, {len(trained)} samples"


def _metrics(run: Path, finished_steps: int | None) -> Iterator[str]:
    """Every step in order; one trained again belongs to a later attempt and has the same loss."""
    lines = _steps(run)
    before, losses = (0, 0), dict[int, float]()
    for line in lines:
        here = (line["attempt"], line["step"])
        follows = here[1] == before[1] + 1 if here[0] == before[0] else here[1] <= before[1] + 1
        if here[0] < before[0] or not follows:
            yield f"metrics.jsonl: attempt {here[0]} has step {here[1]} after step {before[1]} of attempt {before[0]}"
        if losses.setdefault(here[1], line["loss"]) != line["loss"]:
            yield f"metrics.jsonl: step {here[1]} had another loss when it was trained again"
        before = here
    if finished_steps is not None and sorted(losses) != list(range(1, finished_steps + 1)):
        yield f"metrics.jsonl has {len(losses)} of {finished_steps} steps"


def _steps(run: Path) -> list[dict[str, Any]]:
    file = run / "metrics.jsonl"
    return [line for line in _lines(file) if line["kind"] == "step"] if file.exists() else []


def _checkpoints(run: Path) -> Iterator[str]:
    """What has the name of a checkpoint is whole, and there are two once two steps were saved."""
    folders = [folder for folder in (run / "checkpoints").glob("*") if _CHECKPOINT.fullmatch(folder.name)]
    for folder in folders:
        yield from _damage(folder)
    saved = {line["step"] for line in _lines(run / "metrics.jsonl") if line["kind"] == "checkpoint"}
    if len(folders) < min(2, len(saved)):
        yield f"{len(folders)} checkpoints are left of {len(saved)}"


def _damage(folder: Path) -> Iterator[str]:
    manifest = folder / "manifest.json"
    if not manifest.exists():
        yield f"{folder.name} has no manifest"
        return
    for name, expected in json.loads(manifest.read_text()).items():
        content = (folder / name).read_bytes() if (folder / name).exists() else b""
        if (len(content), hashlib.sha256(content).hexdigest()) != (expected["bytes"], expected["sha256"]):
            yield f"{folder.name}/{name} is not what the manifest says"


def same_training(run: Path, reference: Path) -> list[str]:
    """Return where two finished runs differ: the loss of every step, and every byte of the last weights and state."""
    losses = [{line["step"]: line["loss"] for line in _steps(folder)} for folder in (run, reference)]
    found = [] if losses[0] == losses[1] else ["the losses differ"]
    newest = [max(folder for folder in (root / "checkpoints").glob("step-*")) for root in (run, reference)]
    tensors = [{f.relative_to(new): f.read_bytes() for f in new.rglob("*.safetensors")} for new in newest]
    return found + ([] if tensors[0] == tensors[1] else ["the last weights or optimizer states differ"])
