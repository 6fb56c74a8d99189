"""rank-history.jsonl: when a line is written, and of which ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megabatch.trainer.watch import history
from megabatch.trainer.watch.beats import Beat
from megabatch.trainer.watch.history import RankHistory, chosen


def beat(rank: int, waits: float | None = 0.5) -> Beat:
    return Beat(rank, f"node{rank}", "x/1/2", 9, 3, "training", {}, 1 << 20, None, waits, 1 / 3)


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1e9 + self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(history, "time", clock)
    return clock


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in file.read_text().splitlines()]


def test_a_line_is_written_every_ten_seconds_while_a_training_goes_on(tmp_path: Path, clock: Clock) -> None:
    attempt: int | None = None
    write = RankHistory(tmp_path / "history", lambda: attempt)
    for second in range(40):
        clock.now, attempt = float(second), 2 if 8 <= second < 30 else None
        write([beat(0), beat(1, None)])
        write._aside.wait(10)
    written = lines(tmp_path / "history")
    assert [line["time"] - 1e9 for line in written] == [8.0, 18.0, 28.0]
    told = {"waits_for_data": 0.333, "memory_bytes": 1 << 20, "gpu_memory_bytes": None}
    assert written[0] == {
        "time": 1e9 + 8, "attempt": 2, "step": 3,
        "ranks": [
            {"rank": 0, "host": "node0", "waits_for_ranks": 0.5, **told},
            {"rank": 1, "host": "node1", "waits_for_ranks": None, **told},
        ],
    }  # fmt: skip


def test_the_interval_grows_with_the_lines_also_those_of_earlier_starts(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "history"
    file.write_text("{}\n" * 498 + '{"cut')
    write = RankHistory(file, lambda: 1)
    for second in range(0, 90, 2):
        clock.now = float(second)
        write([beat(0)])
        write._aside.wait(10)
    times = [json.loads(text)["time"] - 1e9 for text in file.read_text().splitlines()[499:]]
    assert times == [0.0, 40.0, 80.0]


def test_of_many_ranks_those_that_wait_least_and_most_are_told() -> None:
    told = chosen([beat(rank, (rank * 7 % 100) / 100) for rank in range(100)])
    assert told["left_out"] == 36
    ranks = [one["rank"] for one in told["ranks"]]
    assert ranks == sorted(ranks)
    waits = {one["waits_for_ranks"] for one in told["ranks"]}
    assert waits == {n / 100 for n in range(100) if n < 32 or n >= 68}
    assert "left_out" not in chosen([beat(rank) for rank in range(64)])


def test_what_a_full_disk_does_not_take_is_written_when_there_is_room(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_lines_of", lambda _: 0)  # /dev/full has no end
    file = tmp_path / "history"
    file.symlink_to("/dev/full")
    write = RankHistory(file, lambda: 1)
    for clock.now in (0.0, 20.0, 40.0):
        write([beat(0)])
        write._aside.wait(10)
        if clock.now == 20.0:
            file.unlink()
    assert [line["time"] - 1e9 for line in lines(file)] == [0.0, 20.0, 40.0]
