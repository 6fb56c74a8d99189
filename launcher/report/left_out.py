"""Counts the samples in data-errors.jsonl while it is read: a bad data set has a line for each, epoch by epoch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from megabatch.launcher.report.metrics import read_lines


@dataclass(frozen=True)
class Group:
    """Samples of a shard that could not be used for the same reason."""

    reason: str
    shard: str
    samples: int
    last_message: str


@dataclass(frozen=True)
class LeftOut:
    """What took no part; a sample that is met in every epoch is one."""

    samples: int
    masked: int
    groups: tuple[Group, ...]  # the largest first


def read_left_out(file: Path) -> LeftOut:
    """Read the whole file; without one nothing was left out."""
    seen: set[tuple[str, str]] = set()
    counts: Counter[tuple[str, str]] = Counter()
    messages: dict[tuple[str, str], str] = {}
    masked = 0
    for line in read_lines(file):
        if "sample_id" in line:
            sample = _text(line, "split"), _text(line, "sample_id")
            group = _text(line, "reason"), _text(line, "shard")
            counts[group] += sample not in seen
            seen.add(sample)
            messages[group] = _text(line, "message")
        elif isinstance(line.get("samples"), int):
            masked += line["samples"]
    found = [Group(*group, count, messages[group]) for group, count in counts.most_common() if count]
    return LeftOut(len(seen), masked, tuple(found))


def _text(line: dict[str, object], key: str) -> str:
    return str(line.get(key, ""))
