"""The ledger of samples that did not count: which, where, why; the same on all ranks, in RUN_DIR/data-errors.jsonl.

A sample that cannot be used keeps its place in the order and in its micro-batch, with weight 0. So shapes, order and
resume stay exact, and nothing is missing without a line here. More such samples than the recipe allows end the run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megabatch.configs.data import OnError
from megabatch.data.errors import SkippedSample
from megabatch.data.masked import MaskedSamples
from megabatch.data.requests import Request
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.gathered import gathered_json
from megabatch.trainer.line_file import LineFile
from megabatch.trainer.world import World


class Ledger:
    """Counts the distinct samples with weight 0 over a whole run, restarts included. Rank 0 writes."""

    def __init__(self, file: Path, on_error: OnError, world: World):
        self._lines = LineFile(file)
        self._on_error = on_error
        self._world = world
        self._reasons: dict[tuple[str, int], tuple[str, str]] = {}  # (split, sample id) -> (reason, shard)
        self._masked: Counter[str] = Counter()
        for line in read_ledger(file):
            if "samples" in line:
                self._masked[line["reason"]] += line["samples"]
            else:
                self._reasons[line["split"], line["sample_id"]] = line["reason"], line["shard"]

    def add(self, skipped: Sequence[SkippedSample], split: str, request: Request | None = None) -> None:
        """Take note of this rank's skipped samples and those of all others; every rank must call this together.

        `request` is none in an evaluation. Raises TrainingError, on all ranks, when there are more than allowed.
        """
        samples = sorted(self._of_all_ranks(skipped), key=lambda sample: sample.sample_id)
        if self._world.is_main:
            place = {"split": split, "step": request and request.step, "epoch": request and request.epoch}
            self._lines.append(*({**place, **sample._asdict()} for sample in samples))
        for sample in samples:
            self._reasons[split, sample.sample_id] = sample.reason, sample.shard
        if len(self._reasons) > self._on_error.max_samples:
            raise TrainingError(
                f"{len(self._reasons):,} samples could not be used, data.on_error allows {self._on_error.max_samples:,}"
                f" ({self.summary()}). The last one: {samples[-1].message}. All are in {self._lines.path}: correct the "
                "data, or allow more with data.on_error.max_samples"
            )

    def add_masked(self, masked: Sequence[MaskedSamples]) -> None:
        """Write what a mask leaves out, unless an earlier start of the run has done so. Rank 0 alone calls this."""
        if self._masked:
            return
        self._lines.append(*(entry._asdict() for entry in masked))
        for entry in masked:
            self._masked[entry.reason] += entry.samples

    def masked_summary(self) -> str:
        """Return the masked samples by reason; empty if there are none."""
        return ", ".join(f"{reason}: {count:,}" for reason, count in self._masked.most_common())

    def summary(self) -> str:
        """Return the distinct samples by reason, most frequent first; empty if there are none."""
        reasons = Counter(reason for reason, _ in self._reasons.values())
        return ", ".join(f"{reason}: {count:,}" for reason, count in reasons.most_common())

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the distinct samples by reason and shard."""
        counts: dict[str, dict[str, int]] = {}
        for reason, shard in sorted(self._reasons.values()):
            of_reason = counts.setdefault(reason, {})
            of_reason[shard] = of_reason.get(shard, 0) + 1
        return counts

    def _of_all_ranks(self, skipped: Sequence[SkippedSample]) -> list[SkippedSample]:
        of_ranks = gathered_json(skipped, self._world.num_ranks)
        return [SkippedSample(*sample) for of_rank in of_ranks for sample in of_rank]


def read_ledger(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a ledger; a last line cut short by a kill is left out."""
    if not file.exists():
        return []
    lines = []
    for text in file.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines
