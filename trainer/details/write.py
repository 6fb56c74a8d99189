"""RUN_DIR/details-SPLIT.json: what an evaluation found beyond its figures, with pictures of the worst mistakes.

A picture is made by the rank that evaluated the sample, which had its shard open just now. The file is written aside.
"""

from __future__ import annotations

import base64
import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from megabatch.configs.new_file import write_whole
from megabatch.configs.targets import ClassTarget, NumbersTarget
from megabatch.data.decode import decode_image
from megabatch.data.errors import DataError
from megabatch.trainer.build import Parts
from megabatch.trainer.details.findings import Findings, Mistake
from megabatch.trainer.details.of_classes import ClassFindings
from megabatch.trainer.details.of_tables import TableFindings
from megabatch.trainer.evaluate import Evaluated, EvaluationResult, TakeIn
from megabatch.trainer.metrics import OutputTable
from megabatch.trainer.outputs import read_outputs

_SIDE = 96
_QUALITY = 85
_MOST_BYTES = 24 * 1024  # of a mistake with its picture; the ranks send each other as much for each


class Details:
    """The details of an evaluation: `evaluate_split(split, also=details.begin)`, then `write` on all ranks together."""

    def __init__(self, parts: Parts):
        self._parts = parts

    def begin(self, what: Evaluated) -> TakeIn:
        """Return what takes in all that this rank evaluates."""
        self._what = what
        self._findings = _findings(what)
        return self._findings.take_in

    def write(self, result: EvaluationResult, checkpoint: str, step: int) -> None:
        """Write the file soon; `checkpoint` is what `megabatch eval --checkpoint` calls the network."""
        parts, num_ranks = self._parts, self._parts.world.num_ranks
        mistakes = self._with_samples(self._findings.mistakes(num_ranks))
        summary = self._findings.summary(num_ranks)
        if summary is None or not parts.world.is_main:
            return
        values = {
            "split": result.split, "step": step, "checkpoint": checkpoint, "samples": result.samples,
            "target": self._what.target.name,
        }  # fmt: skip
        found = {**summary, "mistakes": mistakes}
        parts.aside.begin(lambda: self._write(parts.run_dir.details(result.split), values, found))

    def _write(self, file: Path, values: dict[str, Any], found: dict[str, Any]) -> None:
        kind = "outputs" if isinstance(self._what.target, NumbersTarget) else "classes"
        with suppress(DataError):  # somebody has removed the file with the names
            names = read_outputs(self._parts.run_dir, self._parts.job).names
            write_whole(file, json.dumps({**values, kind: names, **found}))

    def _with_samples(self, mistakes: list[Mistake]) -> list[dict[str, Any]]:
        """Return the mistakes with key, shard and picture of their samples, which other ranks may have read."""
        if not mistakes:
            return []
        slots = torch.zeros(len(mistakes), _MOST_BYTES, dtype=torch.uint8)
        for slot, mistake in zip(slots, mistakes, strict=True):
            if (mistake.position // self._what.micro_batch) % self._parts.world.num_ranks == self._parts.world.rank:
                told = torch.frombuffer(bytearray(self._sample(mistake.position)), dtype=torch.uint8)
                slot[: len(told)] = told
        self._parts.step_parts.engine.sum_over_ranks(slots)  # each slot is filled by one rank
        samples = [json.loads(slot.numpy().tobytes().rstrip(b"\0")) for slot in slots]
        return [{**sample, **mistake.to_json()} for sample, mistake in zip(samples, mistakes, strict=True)]

    def _sample(self, position: int) -> bytes:
        """Return key, shard and picture of a sample as JSON; less where it cannot be read or takes much room."""
        told: dict[str, Any] = {}
        texts = [json.dumps(told).encode()]
        with suppress(DataError, OSError, ValueError):
            sample = self._what.reader.read(int(self._what.sample_ids[position]))
            told = {"key": sample.key, "shard": sample.shard.rpartition("/")[2]}
            texts.append(json.dumps(told).encode())
            picture = thumbnail(sample.image, self._parts.job.recipe.data.max_image_pixels)
            texts.append(json.dumps({**told, "thumbnail": picture}).encode())
        return [text for text in texts if len(text) <= _MOST_BYTES][-1]


def thumbnail(payload: memoryview | bytes, max_pixels: int) -> str:
    """Return the whole image as a small JPEG, in base64. Raises ValueError where it cannot be decoded."""
    image = Image.fromarray(decode_image(payload, max_pixels))
    image.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY, subsampling=0, optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _findings(what: Evaluated) -> Findings:
    if isinstance(what.target, ClassTarget):
        return ClassFindings()
    assert isinstance(what.kept, OutputTable)
    return TableFindings(what.target, what.kept)
