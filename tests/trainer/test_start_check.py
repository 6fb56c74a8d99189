"""The look at the nodes at the start: what is only odd is printed once, and the cluster file can leave it out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from megabatch.configs.cluster import Cluster
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import start_check
from megabatch.trainer.world import World

GIB = 1 << 30
GOOD: dict[str, Any] = {
    "megabatch": "1", "torch": "2", "python": "3", "device": "cpu", "job": "9f", "cannot_write": "", "unseen": [],
    "sums_are_right": True, "clock_seconds": 0.0, "memory_free_bytes": 8 * GIB, "disk_free_bytes": 90 * GIB,
    "shared_memory_free_bytes": GIB,
}  # fmt: skip


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have the second of two hosts be an hour behind; return a list that grows with every look."""
    looks: list[int] = []

    def facts(world: World, run_dir: RunDir, rounds: int) -> dict[str, Any]:
        looks.append(world.rank)
        return GOOD

    def gathered(value: dict[str, Any], num_ranks: int) -> list[dict[str, Any]]:
        late = {"clock_seconds": -3600.0}
        return [{**value, "rank": 0, "host": "a"}, {**value, "rank": 1, "host": "b", **late}]

    monkeypatch.setattr(start_check, "facts_of", facts)
    monkeypatch.setattr(start_check, "gathered_json", gathered)
    return looks


def world(rank: int, num_ranks: int = 2) -> World:
    return World(rank, num_ranks, rank, torch.device("cpu"))


def cluster(**changes: Any) -> Cluster:
    return Cluster(name="two", processes_per_node=2, device="cpu", **changes)


def test_what_is_only_odd_is_a_warning_of_rank_0_and_ends_nothing(
    two_ranks: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start_check.require_fit_nodes(world(1), cluster(), RunDir(tmp_path))
    assert capsys.readouterr().out == ""
    start_check.require_fit_nodes(world(0), cluster(), RunDir(tmp_path))
    told = "warning: b, rank 1: the clock is -3600 s beside that of rank 0. Start NTP there\n"
    assert capsys.readouterr().out == told
    assert two_ranks == [1, 0]


def test_nobody_looks_where_the_cluster_file_says_so_or_a_rank_is_alone(two_ranks: list[int], tmp_path: Path) -> None:
    start_check.require_fit_nodes(world(0), cluster(check_at_start=False), RunDir(tmp_path))
    start_check.require_fit_nodes(world(0, num_ranks=1), cluster(), RunDir(tmp_path))
    assert two_ranks == []
